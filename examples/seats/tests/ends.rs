//! The program, and every way in which it ends: what is held and not paid is given back.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, SqliteConnection};

struct Seats {
    dir: PathBuf,
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Seats {
    fn start(name: &str) -> Seats {
        let dir = std::env::temp_dir().join(format!("epilogue-seats-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_seats"))
            .env("DATABASE_URL", format!("sqlite://{}?mode=rwc", dir.join("db").display()))
            .env("EPILOGUE_STATE_DIR", dir.join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Seats { dir, child, said }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.said.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn signal(&self, number: i32) {
        // SAFETY: no memory is passed; the child was not waited for, so its pid is its own.
        assert_eq!(unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), number) }, 0);
    }

    async fn rows(&self, table: &str) -> Vec<String> {
        let address = format!("sqlite://{}", self.dir.join("db").display());
        let mut connection = SqliteConnection::connect(&address).await.unwrap();
        let all = format!("select seat from {table} order by seat");
        sqlx::query_scalar(&all).fetch_all(&mut connection).await.unwrap()
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn what_is_sold_stays_and_what_is_held_is_given_back_on_term_and_after_sigkill() {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let mut seats = Seats::start(&format!("signal-{signal}"));
        assert_eq!(seats.ask("hold A1"), "held A1");
        assert_eq!(seats.ask("hold A2"), "held A2");
        assert_eq!(seats.ask("pay A1"), "sold A1");
        assert_eq!(seats.ask("hold A1"), "hold A1: it is sold");
        assert_eq!(seats.rows("held").await, ["A2"]);
        seats.signal(signal);
        // Whoever waits for a child closes its input, which would end it as well.
        let _open = seats.child.stdin.take();
        let status = seats.child.wait().unwrap();
        let expected = if signal == libc::SIGKILL { (None, Some(signal)) } else { (Some(0), None) };
        assert_eq!((status.code(), status.signal()), expected);
        let until = Instant::now() + Duration::from_secs(20);
        // After SIGKILL by a guardian, whose end nobody can wait for.
        while !seats.rows("held").await.is_empty() {
            assert!(signal == libc::SIGKILL && Instant::now() < until, "after signal {signal}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(seats.rows("sold").await, ["A1"]);
    }
}

#[tokio::test]
async fn the_end_of_its_input_is_an_end_like_any_other() {
    let mut seats = Seats::start("input");
    assert_eq!(seats.ask("hold A1"), "held A1");
    drop(seats.child.stdin.take());
    assert_eq!(seats.child.wait().unwrap().code(), Some(0));
    assert_eq!(seats.rows("held").await, [""; 0]);
}
