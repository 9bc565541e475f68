//! An owner, or a payer, of what several machines share: for the tests, and to try it by hand.
//!
//! `shared own ADDRESS NAME TTL_MS FILE` registers two cleanups that write to FILE, and waits;
//! `shared pay ADDRESS NAME TTL_MS` pays whatever owner is dead, until there is none.

use std::time::Duration;

use epilogue_guardian::{Call, Options, RunCommand, Runner, SharedStore, now_ms, pay_shared};
use epilogue_journal::{Record, Store, Tier};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, address, name, ttl, rest @ ..] = arguments.as_slice() else {
        return Err("usage: shared own|pay ADDRESS NAME TTL_MS [FILE]".into());
    };
    let ttl = Duration::from_millis(ttl.parse()?);
    if role == "own" {
        let file = rest.first().ok_or("FILE is missing")?;
        let store = SharedStore::own(address, name, ttl)?;
        for what in ["older", "newer"] {
            let script = format!(
                "echo begin {what} $WHO >> {file}; [ -z \"$SLOW\" ] || sleep $SLOW; echo end {what} $WHO >> {file}"
            );
            let call = Call::of(&RunCommand::new(["sh", "-c", &script])?)?.to_bytes()?;
            store.register(&Record { scope: 1, time_ms: now_ms(), body: &call, tier: Tier::Power })?;
        }
        println!("registered");
        while store.is_held() {
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("lost");
        return Ok(());
    }
    let options = Options { budget: Duration::from_secs(60), ..Options::of(Runner::Recover) };
    for (owner, paid) in pay_shared(address, name, ttl, &options)? {
        match paid {
            Ok(report) => println!("{owner}: ran {}, left {}", report.ran.len(), report.left()),
            Err(error) => println!("{owner}: {error}"),
        }
    }
    Ok(())
}
