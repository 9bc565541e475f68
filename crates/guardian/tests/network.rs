//! Built-in actions against the real thing: Redis, PostgreSQL, SQLite; and HTTP answers of every kind.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epilogue_guardian::*;
use epilogue_journal::{
    Disarm, Ended, Entry, Generation, Journal, JournalError, Paid, ProcessId, Record, State, Store, Tier,
};

/// A journal whose payer dies after it has run a cleanup and before it can note so, this often.
struct Forgetful<'a>(&'a Journal, AtomicU32);

impl Store for Forgetful<'_> {
    fn register(&self, record: &Record<'_>) -> Result<u64, JournalError> {
        Store::register(self.0, record)
    }
    fn amend(&self, id: u64, time_ms: u64, body: &[u8]) -> Result<(), JournalError> {
        Store::amend(self.0, id, time_ms, body)
    }
    fn disarm(&self, id: u64) -> Result<Disarm, JournalError> {
        Store::disarm(self.0, id)
    }
    fn open_entries(&self) -> Result<Vec<Entry>, JournalError> {
        self.0.open_entries()
    }
    fn take_over(&self, payer: ProcessId) -> Result<Generation, JournalError> {
        Store::take_over(self.0, payer)
    }
    fn begin(&self, generation: Generation, entry: &Entry) -> Result<Option<u8>, JournalError> {
        Store::begin(self.0, generation, entry)
    }
    fn finish(&self, generation: Generation, entry: &Entry, paid: Paid) -> Result<(), JournalError> {
        let forgets = paid == Paid::Done
            && self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        Store::finish(self.0, generation, entry, if forgets { Paid::Failed } else { paid })
    }
    fn park(&self, generation: Generation, entry: &Entry) -> Result<bool, JournalError> {
        Store::park(self.0, generation, entry)
    }
    fn close(&self, generation: Generation) -> Result<bool, JournalError> {
        Store::close(self.0, generation)
    }
}

/// Registers an action in a run of its own, pays it `times` times, and says what became of it.
fn paid<A: Action>(name: &str, action: &A, times: u32) -> (Report, State) {
    let home = support::scratch(name);
    let home = Home::find(Some(&home), Tier::Process).unwrap();
    let run = Run::create(&home, NewRun::default()).unwrap();
    let body = Call::of(action).unwrap().to_bytes().unwrap();
    let record = Record { scope: 1, time_ms: 0, body: &body, tier: Tier::Process };
    let id = run.journal.register(&record).unwrap().id();
    let options = Options { budget: Duration::from_secs(20), attempts: 1, ..Options::of(Runner::Recover) };
    let about = About {
        uuid: run.meta().uuid.clone(),
        ended: Ended::Unknown,
        same_boot: true,
        dir: None,
        program: None,
        environment: None,
    };
    let generation = run.journal.take_over(this_process()).unwrap();
    let store = Forgetful(&run.journal, AtomicU32::new(times - 1));
    let report = pay_store(&store, &about, generation, &options).unwrap();
    let entry = run.journal.scan().unwrap().find(id).unwrap().clone();
    assert_eq!(u32::from(entry.attempts), times);
    std::fs::remove_dir_all(&home.path).unwrap();
    (report, entry.state)
}

#[test]
fn a_redis_lock_is_released_if_it_is_ours_and_left_alone_if_not() {
    let server = support::redis(Some("hunter2"));
    let say = |words: &str| -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        write!(stream, "AUTH hunter2\r\n{words}\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "+OK");
        lines.next().unwrap().unwrap()
    };
    let secret = support::scratch("redis-secret").join("password");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let unlock = RedisUnlock {
        server: format!("127.0.0.1:{}", server.port),
        key: "lock".into(),
        token: "mine".into(),
        user: None,
        password: Some(SecretRef::File(secret.clone())),
        database: 0,
    };
    say("SET lock mine");
    assert_eq!(paid("redis-a", &unlock, 1).1, State::Done);
    assert_eq!(say("EXISTS lock"), ":0");
    say("SET lock another");
    assert_eq!(paid("redis-b", &unlock, 1).1, State::Done, "the lock is not ours any more: nothing to do");
    assert_eq!(say("GET lock"), "$7");
    std::fs::write(&secret, "wrong").unwrap();
    let (report, state) = paid("redis-c", &unlock, 1);
    assert_eq!(state, State::Parked, "{report:?}");
    drop(server);
    let (report, state) = paid("redis-d", &unlock, 1);
    assert_eq!(state, State::Failed, "a server that is away may come back: {report:?}");
    assert!(!serde_json::to_string(&Call::of(&unlock).unwrap()).unwrap().contains("hunter2"));
}

#[test]
fn a_statement_is_run_once_however_often_it_is_paid() {
    let server = support::postgres("postgres-sql");
    let dir = support::scratch("sql");
    let sqlite = dir.join("db");
    let addresses = [server.address("127.0.0.1"), format!("sqlite://{}", sqlite.display())];
    let mut client = postgres::Client::connect(&addresses[0], postgres::NoTls).unwrap();
    client.batch_execute("CREATE TABLE seats (taken bigint); INSERT INTO seats VALUES (5)").unwrap();
    let connection = rusqlite::Connection::open(&sqlite).unwrap();
    connection.execute_batch("CREATE TABLE seats (taken bigint); INSERT INTO seats VALUES (5)").unwrap();
    for (index, address) in addresses.iter().enumerate() {
        let file = dir.join(format!("address-{index}"));
        std::fs::write(&file, address).unwrap();
        let cast = if index == 0 { "$1::text::bigint" } else { "CAST($1 AS bigint)" };
        let free = SqlStatement {
            database: SecretRef::File(file.clone()),
            statement: format!("UPDATE seats SET taken = taken - {cast}"),
            parameters: vec!["1".into()],
        };
        let (report, _) = paid(&format!("sql-{index}"), &free, 3);
        assert_eq!(report.left(), 0, "{report:?}");
        let wrong = SqlStatement { statement: "UPDATE nowhere SET a = 1".into(), parameters: vec![], ..free };
        let (report, state) = paid(&format!("sql-wrong-{index}"), &wrong, 1);
        assert_eq!(state, State::Parked, "{report:?}");
        assert!(report.parked[0].why.as_ref().unwrap().contains("nowhere"), "{report:?}");
    }
    let taken: i64 = client.query_one("SELECT taken FROM seats", &[]).unwrap().get(0);
    assert_eq!(taken, 4);
    let taken: i64 = connection.query_row("SELECT taken FROM seats", [], |row| row.get(0)).unwrap();
    assert_eq!(taken, 4);
    std::fs::remove_dir_all(dir).unwrap();
}

/// A server whose answers the test chooses: no real one gives all of them.
struct Answers {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

fn answering(answer: impl Fn(&str) -> u16 + Send + 'static) -> Answers {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let status = answer(head.lines().next().unwrap_or_default());
            log.lock().unwrap().push(head);
            let _ = write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    Answers { port, seen }
}

#[test]
fn every_kind_of_answer_leads_to_the_right_state_and_the_key_is_sent_along() {
    for (method, status, state) in [
        ("POST", 204, State::Done),
        ("DELETE", 404, State::Done),
        ("DELETE", 410, State::Done),
        ("POST", 404, State::Parked),
        ("POST", 401, State::Parked),
        ("POST", 429, State::Failed),
        ("DELETE", 503, State::Failed),
        ("GET", 302, State::Failed),
    ] {
        let server = answering(move |_| status);
        let url = format!("http://127.0.0.1:{}/vm/7", server.port);
        let secret = support::scratch("http-secret").join("token");
        std::fs::write(&secret, "s3cret").unwrap();
        let request = HttpRequest::new(method, url).unwrap().header("X-Why", "cleanup").secret_header(
            "Authorization",
            "Bearer ",
            SecretRef::File(secret),
        );
        let (report, found) = paid("http", &request, 1);
        assert_eq!(found, state, "{method} {status}: {report:?}");
        let seen = server.seen.lock().unwrap()[0].to_lowercase();
        for header in ["idempotency-key: ", "x-why: cleanup", "authorization: bearer s3cret"] {
            assert!(seen.contains(header), "{seen}");
        }
        assert!(!serde_json::to_string(&Call::of(&request).unwrap()).unwrap().contains("s3cret"));
    }
    assert!(HttpRequest::new("GET", "http://me:pw@host/").unwrap_err().contains("holds credentials"));
    assert!(HttpRequest::new("GET", "ftp://host/").unwrap_err().contains("ftp"));
    assert!(HttpRequest::new("GET", "host").unwrap_err().contains("host"));
}

#[test]
fn a_registry_is_left_by_its_newest_api_or_the_one_that_it_has() {
    let modern = answering(|_| 200);
    let nacos =
        |port| Deregister::nacos(format!("http://127.0.0.1:{port}/nacos"), "orders", "10.0.0.1", 8080);
    assert_eq!(paid("nacos", &nacos(modern.port), 1).1, State::Done);
    assert!(
        modern.seen.lock().unwrap()[0]
            .starts_with("DELETE /nacos/v3/client/ns/instance?serviceName=orders&ip=10.0.0.1&port=8080")
    );
    let old = answering(|line| if line.contains("/v3/") { 404 } else { 200 });
    assert_eq!(paid("nacos-old", &nacos(old.port), 1).1, State::Done);
    assert!(old.seen.lock().unwrap()[1].starts_with("DELETE /nacos/v1/ns/instance?"));
    let eureka = answering(|_| 404);
    let leave =
        Deregister::eureka(format!("http://127.0.0.1:{}/eureka", eureka.port), "orders", "host:orders:8080");
    assert_eq!(paid("eureka", &leave, 1).1, State::Done, "an instance that nobody knows is gone");
    assert!(eureka.seen.lock().unwrap()[0].starts_with("DELETE /eureka/apps/ORDERS/host:orders:8080 "));
}
