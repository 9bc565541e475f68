//! The service: one route, registered, with a listener that its generations hand on.

use std::process::ExitCode;

use clap::Args;
use epilogue::registry::{Instance, Nacos, registered};
use epilogue::{App, Options, http, main_with};

#[derive(Args)]
pub(crate) struct Settings {
    /// The Nacos server
    #[arg(long, value_name = "URL")]
    registry: String,
}

pub(crate) fn serve(settings: &Settings) -> ExitCode {
    main_with(Options::default().quiet(true), async |app: &App| {
        let listener = app.listener("http", "127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let router = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
        app.start(http::serve(listener, router)).await?;
        app.start(registered(Nacos::at(&settings.registry), Instance::new("service", "127.0.0.1", port)?))
            .await?;
        println!("{} {port}", std::process::id());
        Ok(())
    })
}
