//! OpenTelemetry's own SDK, with exporters that a test can look into.
#![cfg(feature = "opentelemetry")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use epilogue_adapters::telemetry;
use epilogue_process::{App, Options, StepOutcome, run_with};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};

const S: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default)]
struct Kept {
    spans: Arc<Mutex<Vec<String>>>,
    hangs: bool,
}

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        if self.hangs {
            std::thread::sleep(Duration::from_secs(3600));
        }
        self.spans.lock().unwrap().extend(batch.into_iter().map(|span| span.name.into_owned()));
        Ok(())
    }
}

async fn run(kept: Kept) -> epilogue_process::ExitReport {
    use opentelemetry::trace::{Tracer, TracerProvider};
    let provider = SdkTracerProvider::builder().with_batch_exporter(kept).build();
    let tracer = provider.tracer("test");
    let options = Options::embedded().grace(Duration::from_secs(10));
    let (_, report) = run_with(options, async |app: &App| {
        telemetry::flush_last(app, provider, S);
        app.defer("pool", async move || {
            tracer.in_span("the pool closes", |_| ());
            Ok(())
        });
        Ok(())
    })
    .await;
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_of_the_stop_itself_are_exported() {
    let kept = Kept::default();
    let report = run(kept.clone()).await;
    let names: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!((names.as_slice(), report.code), (&["pool", "traces"][..], 0), "{report}");
    assert_eq!(*kept.spans.lock().unwrap(), ["the pool closes"]);
}

#[test]
fn an_exporter_that_hangs_costs_its_limit_and_is_named() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(run(Kept { hangs: true, ..Kept::default() }));
    runtime.shutdown_background();
    let StepOutcome::Failed { error } = &report.steps[1].outcome else { panic!("{report}") };
    assert_eq!(report.code, 123, "{report}");
    assert!(
        error.to_lowercase().contains("timed out") || error.to_lowercase().contains("timeout"),
        "{error}"
    );
    assert!(report.total >= S && report.total < 3 * S, "{report}");
}
