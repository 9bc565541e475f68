//! OpenTelemetry's providers, flushed and shut down after everything else has stopped: what the stop itself has to tell
//! is exported too.

use std::sync::Arc;
use std::time::Duration;

use epilogue_process::{App, Error, ExitReport};
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

/// Something that is flushed in the end.
pub trait Provider: Send + Sync + 'static {
    /// What it is called in the report.
    const NAME: &'static str;

    /// Exports what is left, and shuts down, within this time. Blocks.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    fn shut_down(&self, limit: Duration) -> Result<(), OTelSdkError>;
}

macro_rules! provider {
    ($provider:ty, $name:literal) => {
        impl Provider for $provider {
            const NAME: &'static str = $name;

            fn shut_down(&self, limit: Duration) -> Result<(), OTelSdkError> {
                self.shutdown_with_timeout(limit)
            }
        }
    };
}

provider!(SdkTracerProvider, "traces");
provider!(SdkMeterProvider, "metrics");
provider!(SdkLoggerProvider, "logs");

/// Shuts a provider down after everything else, within `limit`. The SDK blocks: it does so on a thread of its own, and a
/// collector that does not answer costs the limit, or what is left of the budget, and is in the report.
///
/// # Examples
///
/// ```
/// # use epilogue_adapters::telemetry;
/// # use epilogue_process::{App, Options, run_with};
/// # use std::time::Duration;
/// # #[tokio::main]
/// # async fn main() {
/// let (_, report) = run_with(Options::embedded(), async |app: &App| {
///     let traces = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();   // … with an exporter
///     telemetry::flush_last(app, traces, Duration::from_secs(2));
///     Ok(())
/// })
/// .await;
/// assert_eq!(report.steps[0].name, "traces");
/// # }
/// ```
#[track_caller]
pub fn flush_last<P: Provider>(app: &App, provider: P, limit: Duration) {
    app.defer_last(P::NAME, move |_: Arc<ExitReport>| async move {
        let (tell, told) = tokio::sync::oneshot::channel();
        // Not one of the runtime's: that would wait for it, whatever it waits for.
        let thread = std::thread::Builder::new().name(P::NAME.to_owned());
        thread.spawn(move || drop(tell.send(provider.shut_down(limit))))?;
        // Not every provider of the SDK keeps its limit.
        match tokio::time::timeout(limit, told).await {
            Ok(shut) => Ok::<(), Error>(shut??),
            Err(_) => Err(Error::msg(format!("it timed out after {limit:?}"))),
        }
    });
}
