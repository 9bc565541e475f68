//! The built-in targets: the example service, the ordinary way and on Epilogue.

use std::path::Path;

use epilogue_prove::{Ask, LedgerSpec, Target, Trigger};

/// Which styles of the example service to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// Both, side by side
    Both,
    /// What a careful engineer writes today
    Plain,
    /// The same service on Epilogue
    Epilogue,
}

/// The name of the target whose losses decide the exit status.
pub(crate) const EPILOGUE: &str = "epilogue style";

/// The targets, run by this very program.
pub(crate) fn targets(program: &Path, style: Style) -> Vec<Target> {
    let mut targets = Vec::new();
    if style != Style::Epilogue {
        targets.push(orders(program, "plain style", "plain"));
    }
    if style != Style::Plain {
        targets.push(orders(program, EPILOGUE, "epilogue"));
    }
    targets
}

fn orders(program: &Path, name: &str, style: &str) -> Target {
    let words = ["orders", "--hooks", "--style", style, "--port", "{port}"];
    let dirs = ["--data", "{dir}/data", "--run", "{dir}/run"];
    let mut command = vec![program.display().to_string()];
    command.extend(words.into_iter().chain(dirs).map(str::to_owned));
    let mut target = Target::new(name, command);
    target.ready = Some("/ready".into());
    target.fast = "/orders/{id}".into();
    target.slow = Some("/orders/{id}/invoice".into());
    target.upload = Some("/uploads".into());
    target.watch = Some("{dir}/run".into());
    let order = br#"{"customer":"prove","item":"order {n}","quantity":1}"#.to_vec();
    let body = Some(("application/json".to_owned(), order));
    target.ledger = Some(LedgerSpec {
        write: Ask { method: "POST".into(), path: "/orders".into(), body },
        read: "/orders/{id}".into(),
    });
    for (trigger, path) in [
        (Trigger::Return, "/admin/stop"),
        (Trigger::Exit, "/admin/exit"),
        (Trigger::PanicHandler, "/admin/panic"),
        (Trigger::PanicMain, "/admin/panic-main"),
        (Trigger::Abort, "/admin/abort"),
    ] {
        target.hooks.insert(trigger, Ask { method: "POST".into(), path: path.into(), body: None });
    }
    target
}
