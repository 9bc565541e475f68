//! Several machines over a real PostgreSQL: when one dies, another pays; and one that is cut off in the
//! middle of it notes nothing any more.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use epilogue_guardian::SharedStore;
use epilogue_journal::{Disarm, JournalError, Paid, Record, Store, Tier};
use support::{Server, postgres, root, scratch, wait_until};

fn example() -> PathBuf {
    // Beside the tests, where cargo has put it.
    let this = std::env::current_exe().unwrap();
    this.parent().unwrap().parent().unwrap().join("examples/shared")
}

fn record(body: &[u8]) -> Record<'_> {
    Record { scope: 1, time_ms: 0, body, tier: Tier::Power }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(600);

#[test]
fn an_owner_keeps_its_lease_and_only_a_dead_one_is_claimed() {
    let server = postgres("lease");
    let address = server.address("127.0.0.1");
    let owner = SharedStore::own(&address, "alive", SHORT).unwrap();
    let id = owner.register(&record(b"a")).unwrap();
    // For longer than its lease, it is renewed.
    for _ in 0..20 {
        assert!(SharedStore::claim(&address, "payer", LONG).unwrap().is_none());
        assert!(owner.is_held());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(owner.disarm(id).unwrap(), Disarm::Disarmed);
    assert_eq!(owner.disarm(id).unwrap(), Disarm::Already);
    owner.leave().unwrap();
    assert!(SharedStore::claim(&address, "payer", LONG).unwrap().is_none());
}

#[test]
fn who_was_replaced_can_register_begin_and_finish_nothing() {
    let server = postgres("fence");
    let address = server.address("127.0.0.1");
    let dead = SharedStore::own(&address, "dead", SHORT).unwrap();
    let id = dead.register(&record(b"a")).unwrap();
    dead.amend(id, 0, b"known").unwrap();
    expire(&server, "dead");
    let (first, one) = SharedStore::claim(&address, "first", LONG).unwrap().unwrap();
    assert!(SharedStore::claim(&address, "second", LONG).unwrap().is_none(), "one at a time");
    let late = dead.register(&record(b"late"));
    assert!(matches!(late, Err(JournalError::TooLate | JournalError::LeaseLost)), "{late:?}");
    let entry = first.open_entries().unwrap().remove(0);
    assert_eq!((entry.body.as_slice(), entry.amendment.as_deref()), (&b"a"[..], Some(&b"known"[..])));
    assert_eq!(first.begin(one, &entry).unwrap(), Some(1));
    expire(&server, "dead");
    let (second, two) = SharedStore::claim(&address, "second", LONG).unwrap().unwrap();
    assert!(two > one, "generations of one sequence");
    assert!(matches!(first.finish(one, &entry, Paid::Done), Err(JournalError::Fenced { .. })));
    assert!(matches!(first.begin(one, &entry), Err(JournalError::Fenced { .. })));
    assert!(!first.park(one, &entry).unwrap());
    assert!(!first.close(one).unwrap());
    assert_eq!(second.begin(two, &entry).unwrap(), Some(2), "it may have run: it is run again");
    second.finish(two, &entry, Paid::Done).unwrap();
    assert!(second.close(two).unwrap());
}

#[test]
fn a_lease_that_was_lost_once_is_never_renewed_again() {
    let server = postgres("lost");
    let address = server.address("127.0.0.1");
    let owner = SharedStore::own(&address, "cut-off", SHORT).unwrap();
    owner.register(&record(b"a")).unwrap();
    // Somebody holds the row, so that no renewal comes through, as behind a cut cable.
    let mut client = ::postgres::Client::connect(&address, ::postgres::NoTls).unwrap();
    let mut held = client.transaction().unwrap();
    held.execute("SELECT 1 FROM epilogue_owners WHERE owner = 'cut-off' FOR UPDATE", &[]).unwrap();
    wait_until("it knows that its lease may be over", || !owner.is_held());
    // And every attempt that began before that is over.
    let long = "SELECT lease_until + interval '1 s' < clock_timestamp() FROM epilogue_owners
                WHERE owner = 'cut-off'";
    wait_until("the database says so too", || held.query_one(long, &[]).unwrap().get(0));
    held.commit().unwrap();
    // It has stopped its work: were the lease renewed now, nobody could ever pay what it owes. Watched for
    // several times as long as a renewal takes to come, by the clock that counts.
    let since: std::time::SystemTime = client.query_one("SELECT now()", &[]).unwrap().get(0);
    wait_until("several renewals could have come", || {
        let look = "SELECT lease_until < now(), now() > $1::timestamptz + interval '1.2 s' \
                    FROM epilogue_owners WHERE owner = 'cut-off'";
        let row = client.query_one(look, &[&since]).unwrap();
        assert!(row.get::<_, bool>(0) && !owner.is_held());
        row.get(1)
    });
    assert!(SharedStore::claim(&address, "payer", LONG).unwrap().is_some());
    let late = owner.register(&record(b"late"));
    assert!(matches!(late, Err(JournalError::TooLate | JournalError::LeaseLost)), "{late:?}");
}

#[test]
fn two_payers_at_once_share_the_dead_between_them() {
    let server = postgres("share");
    let address = server.address("127.0.0.1");
    for number in 0..8 {
        let owner = SharedStore::own(&address, &format!("dead-{number}"), SHORT).unwrap();
        owner.register(&record(b"a")).unwrap();
        expire(&server, &format!("dead-{number}"));
    }
    let claimed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                while let Some((store, generation)) = SharedStore::claim(&address, "payer", LONG).unwrap() {
                    claimed.lock().unwrap().push(store.owner().to_owned());
                    assert!(store.close(generation).unwrap());
                }
            });
        }
    });
    let mut claimed = claimed.into_inner().unwrap();
    claimed.sort();
    let all: Vec<_> = (0..8).map(|number| format!("dead-{number}")).collect();
    assert_eq!(claimed, all);
}

/// As if the time had passed: the database's clock is the one that counts.
fn expire(server: &Server, owner: &str) {
    let mut client = ::postgres::Client::connect(&server.address("127.0.0.1"), ::postgres::NoTls).unwrap();
    let changed = client
        .execute(
            "UPDATE epilogue_owners SET lease_until = now() - interval '1 s' WHERE owner = $1",
            &[&owner],
        )
        .unwrap();
    assert_eq!(changed, 1);
}

/// Two machines, as network namespaces with a cable each to the one with the database.
struct Hosts(u32);

impl Hosts {
    fn plug() -> Option<Hosts> {
        let number = std::process::id() % 60_000;
        let hosts = Hosts(number);
        for (index, host) in ["a", "b"].iter().enumerate() {
            let (space, here, there) = (hosts.space(host), hosts.cable(host), format!("ep{host}i{number}"));
            let net = format!("10.213.{}", 100 + index);
            let plugged = ip(&["netns", "add", &space])
                && ip(&["link", "add", &here, "type", "veth", "peer", "name", &there])
                && ip(&["link", "set", &there, "netns", &space])
                && ip(&["addr", "add", &format!("{net}.1/24"), "dev", &here])
                && ip(&["link", "set", &here, "up"])
                && ip(&["-n", &space, "addr", "add", &format!("{net}.2/24"), "dev", &there])
                && ip(&["-n", &space, "link", "set", &there, "up"])
                && ip(&["-n", &space, "link", "set", "lo", "up"]);
            if !plugged {
                return None;
            }
        }
        Some(hosts)
    }

    fn space(&self, host: &str) -> String {
        format!("epilogue-{host}-{}", self.0)
    }

    fn cable(&self, host: &str) -> String {
        format!("ep{host}o{}", self.0)
    }

    fn start(&self, host: &str, environment: &[(&str, &str)], arguments: &[&str], out: &Path) -> Child {
        let out = std::fs::File::create(out).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host)]).arg(example()).args(arguments);
        command.envs(environment.iter().copied()).env("WHO", host).stdout(out).stderr(Stdio::inherit());
        command.spawn().unwrap()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in ["a", "b"] {
            ip(&["link", "del", &self.cable(host)]);
            ip(&["netns", "del", &self.space(host)]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_payer_cut_off_in_mid_payment_is_replaced_and_its_word_counts_no_more() {
    let hosts = match root().then(Hosts::plug).flatten() {
        Some(hosts) => hosts,
        None => return eprintln!("skipped(no network namespace can be made here)"),
    };
    let (server, dir) = (postgres("cut-db"), scratch("cut"));
    let (file, out_a, out_b) = (dir.join("file"), dir.join("a"), dir.join("b"));
    let (from_a, from_b) = (server.address("10.213.100.1"), server.address("10.213.101.1"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();

    // An owner on host a dies; what it owes takes three seconds to pay.
    let mut owner = hosts.start("a", &[], &["own", &from_a, "owner", "2000", file.to_str().unwrap()], &out_a);
    wait_until("it is registered", || read(&out_a).contains("registered"));
    kill_group(&mut owner);
    wait_until("host a pays", || {
        let mut payer = hosts.start("a", &[("SLOW", "3")], &["pay", &from_a, "a", "2000"], &out_a);
        let begun = wait_or(&mut payer, || read(&file).contains("begin newer a"));
        if begun {
            // The cable is cut while the first cleanup runs.
            assert!(ip(&["link", "set", &hosts.cable("a"), "down"]));
            let mut other = Vec::new();
            wait_until("host b pays instead", || {
                let mut payer = hosts.start("b", &[], &["pay", &from_b, "b", "2000"], &out_b);
                payer.wait().unwrap();
                other.push(read(&out_b));
                read(&out_b).contains("owner: ran 2, left 0")
            });
            payer.wait().unwrap();
        }
        begun
    });
    let said = read(&out_a);
    assert!(said.contains("owner: ") && !said.contains("ran 2") && !said.contains("left 0"), "{said}");
    let ran = read(&file);
    assert!(ran.contains("end newer b") && ran.contains("end older b"), "{ran}");
    assert!(!ran.contains("begin older a"), "who has lost its lease begins nothing more: {ran}");
    let newer = ran.find("end newer b").unwrap();
    assert!(newer < ran.find("begin older b").unwrap(), "newest first: {ran}");
    std::fs::remove_dir_all(dir).unwrap();
}

/// Waits for a condition, or for the end of the process.
fn wait_or(child: &mut Child, mut holds: impl FnMut() -> bool) -> bool {
    let mut held = false;
    wait_until("one of the two", || {
        held = holds();
        held || child.try_wait().unwrap().is_some()
    });
    held
}

fn kill_group(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
