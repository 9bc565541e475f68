//! What the tests of actions have in common.

#![allow(dead_code, reason = "each test program uses some of it")]

mod servers;
#[allow(unused_imports, reason = "each test program uses some of it")]
pub(crate) use servers::*;

/// A run of an owner that is dead, of this boot or another, with one command to pay: its number.
pub(crate) fn dead_run(run: &std::path::Path, boot_id: String, command: &[&str]) -> u64 {
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(run).unwrap();
    for file in ["lock", "alive"] {
        std::fs::write(run.join(file), "").unwrap();
    }
    let meta = epilogue_journal::NewMeta {
        boot_id,
        pid_namespace: epilogue_guardian::pid_namespace(),
        uid: epilogue_guardian::effective_uid(),
        ..Default::default()
    };
    let journal = epilogue_journal::Journal::create(&run.join("journal"), meta, true).unwrap();
    journal.set_owner(epilogue_journal::ProcessId { pid: u32::MAX >> 1, start: 1 }).unwrap();
    let command = epilogue_guardian::RunCommand::new(command.iter().copied()).unwrap();
    let call = epilogue_guardian::Call::of(&command).unwrap().to_bytes().unwrap();
    let tier = epilogue_journal::Tier::Process;
    journal.register(&epilogue_journal::Record { scope: 1, time_ms: 0, body: &call, tier }).unwrap().id()
}
