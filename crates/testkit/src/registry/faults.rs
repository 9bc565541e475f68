//! What real servers do now and then.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State as Extract};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::State;

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) fails: (u32, u16),
    pub(super) stalls: (u32, Duration),
    pub(super) breaks_off: u32,
    pub(super) old: bool,
    pub(super) login: Option<(String, String)>,
    /// The number of the token that is good.
    pub(super) token: u32,
}

fn take(times: &mut u32) -> bool {
    let left = *times > 0;
    *times = times.saturating_sub(1);
    left
}

/// Every request comes here first.
pub(super) async fn meet(Extract(state): Extract<Arc<State>>, request: Request, next: Next) -> Response {
    state.asked().push(format!("{} {}", request.method(), request.uri().path()));
    let (stall, fails, breaks_off, refused) = {
        let mut faults = state.faults();
        let stall = take(&mut faults.stalls.0).then_some(faults.stalls.1);
        let fails = take(&mut faults.fails.0).then_some(faults.fails.1);
        (stall, fails, take(&mut faults.breaks_off), faults.refuses(&request))
    };
    if let Some(time) = stall {
        tokio::time::sleep(time).await;
    }
    if let Some(status) = fails.or(refused) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return (status, "caused by the test").into_response();
    }
    let answer = next.run(request).await;
    if breaks_off {
        // Less than it says: the connection is closed over it.
        let mut half = Response::new(Body::from("{"));
        half.headers_mut().insert(CONTENT_LENGTH, 1000.into());
        return half;
    }
    answer
}

impl Faults {
    fn refuses(&self, request: &Request) -> Option<u16> {
        let path = request.uri().path();
        if self.old && path.starts_with("/nacos/v3/") {
            return Some(404);
        }
        let wants = self.login.is_some() && path.starts_with("/nacos/") && !path.ends_with("/login");
        let token = format!("accessToken=token-{}", self.token);
        let has = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == token));
        (wants && !has).then_some(403)
    }
}
