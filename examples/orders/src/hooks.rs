//! Ways to end the service from inside, for whoever wants to see what happens then.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::sync::Notify;

/// What the admin routes ask of the service's main task.
#[derive(Clone, Default)]
pub struct Hooks {
    stop: Arc<Notify>,
    panic_main: Arc<Notify>,
}

impl Hooks {
    /// Returns when the service is asked to stop by its own means.
    pub async fn stop(&self) {
        self.stop.notified().await;
    }

    /// Returns when the main task is to panic.
    pub async fn panic_main(&self) {
        self.panic_main.notified().await;
    }

    /// The admin routes.
    pub fn routes(&self) -> Router {
        let stop = Arc::clone(&self.stop);
        let panic_main = Arc::clone(&self.panic_main);
        Router::new()
            .route("/admin/stop", post(async move || stop.notify_one()))
            .route("/admin/panic-main", post(async move || panic_main.notify_one()))
            .route("/admin/panic", post(panic_here))
            .route("/admin/exit", post(exit_here))
            .route("/admin/abort", post(abort_here))
    }
}

async fn panic_here() {
    panic!("asked to panic in a handler");
}

async fn exit_here() -> StatusCode {
    std::process::exit(3)
}

async fn abort_here() -> StatusCode {
    std::process::abort()
}
