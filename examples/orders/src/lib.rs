//! A small order service, written twice over one code base.
//!
//! Everything a request touches is shared: [`store`], [`routes`], [`outbox`], [`shipper`],
//! [`control`], [`lock`]. What differs is how the parts are put together and taken apart:
//! [`style::plain`] is what a careful engineer writes today on axum and tokio, and
//! [`style::epilogue`] is the same service on Epilogue.

pub mod control;
pub mod hooks;
pub mod lock;
pub mod outbox;
pub mod registry;
pub mod routes;
pub mod shipper;
pub mod spool;
pub mod store;
pub mod style;

use std::path::PathBuf;
use std::process::ExitCode;

/// Which of the two ways the service is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// axum's own graceful shutdown, `Drop`, `tokio::signal`.
    Plain,
    /// `epilogue::run` and its parts.
    Epilogue,
}

/// Settings of the service.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// How the service is put together
    #[arg(long, value_enum, default_value = "epilogue")]
    pub style: Style,
    /// The port on 127.0.0.1
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Where the database and the logs are; they stay when the service stops
    #[arg(long, value_name = "DIR", default_value = "orders-data")]
    pub data: PathBuf,
    /// Where lock file, control socket and half-done uploads are; nothing of it stays
    #[arg(long, value_name = "DIR", default_value = "orders-run")]
    pub run: PathBuf,
    /// A Nacos server to be registered in, as in http://nacos:8848/nacos
    #[arg(long, value_name = "URL")]
    pub registry: Option<String>,
    /// How often clients poll that server
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub registry_poll: u64,
    /// Open POST /admin/stop, /admin/exit, /admin/panic, /admin/panic-main and /admin/abort to
    /// everyone: for `epilogue prove`, never for production
    #[arg(long)]
    pub hooks: bool,
}

impl Settings {
    /// Makes sure that both directories are there.
    ///
    /// # Errors
    ///
    /// When one of them cannot be made.
    pub fn make_dirs(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.data)?;
        std::fs::create_dir_all(self.run.join("spool"))
    }
}

/// Runs the service until it is told to stop.
pub fn main(settings: Settings) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("orders: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match settings.style {
            Style::Plain => style::plain::main(settings).await,
            Style::Epilogue => style::epilogue::main(settings).await,
        }
    })
}
