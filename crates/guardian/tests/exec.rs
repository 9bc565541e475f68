//! A process that becomes another program from a thread that is not its first: alive in every moment.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use epilogue_guardian::start_of;
use support::scratch;

const PROGRAM: &str = r#"
#include <pthread.h>
#include <unistd.h>
static void *again(void *path) { usleep(50); execl(path, path, (char *)0); return 0; }
int main(int argc, char **argv) {
    pthread_t thread;
    pthread_create(&thread, 0, again, argv[0]);
    for (;;) pause();
}
"#;

#[test]
fn while_a_thread_of_it_execs_a_process_is_never_dead() {
    let dir = scratch("exec");
    std::fs::write(dir.join("execs.c"), PROGRAM).unwrap();
    let built = Command::new("cc").args(["-o", "execs", "execs.c", "-lpthread"]).current_dir(&dir).status();
    if !built.is_ok_and(|status| status.success()) {
        return eprintln!("skipped(there is no C compiler)");
    }
    let mut child = Command::new(dir.join("execs")).spawn().unwrap();
    // Long enough: looked at in more than one look, a hundred were dead in a second.
    let until = Instant::now() + Duration::from_secs(2);
    let mut looks = 0;
    while Instant::now() < until {
        looks += 1;
        assert!(start_of(child.id()).is_some(), "look {looks}");
    }
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(start_of(child.id()), None);
    std::fs::remove_dir_all(&dir).unwrap();
}
