//! The events of a stop. One test, which has the process to itself: whether a subscriber is interested in an event is
//! asked once for all threads, and a test beside it that has none might be the one that is asked.
#![cfg(feature = "tracing")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use epilogue_process::{App, Options, run_with};
use std::fmt::Write;
use tracing::field::{Field, Visit};

/// Every event as text, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl tracing::Subscriber for Kept {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(event.metadata().name().to_owned());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_exit_is_an_event_before_telemetry_is_flushed() {
    let kept = Kept::default();
    let theirs = kept.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(kept.clone(), || {
        let options = Options::embedded().grace(Duration::from_secs(30));
        runtime.block_on(run_with(options, async |app: &App| {
            app.defer("pool", async || Ok(()));
            app.defer_last("telemetry", async move |_| {
                theirs.0.lock().unwrap().push("flushed".into());
                Ok(())
            });
            Ok(())
        }));
    });
    let events = kept.0.lock().unwrap().clone();
    let names: Vec<_> = events.iter().map(|event| event.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["epilogue.stopping", "epilogue.step", "epilogue.exit", "flushed"], "{events:?}");
    assert!(events[2].contains(" code=0 trigger=the body returned"), "{}", events[2]);
}
