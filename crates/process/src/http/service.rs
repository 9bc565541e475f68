//! One request: probes answered, demand noted, panics turned into a 500, close announced.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;

use super::Phase;
use super::connections::{Admitted, Connection, Shared};
use epilogue_task::isolated;

pub(super) struct Handler {
    router: TowerToHyperService<Router>,
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Handler {
    pub(super) fn new(admitted: &Admitted, router: Router) -> Handler {
        Handler {
            router: TowerToHyperService::new(router),
            shared: Arc::clone(&admitted.shared),
            connection: Arc::clone(&admitted.connection),
        }
    }

    fn probe(&self, path: &str) -> Option<Response<Body>> {
        let settings = self.shared.settings();
        let is = |paths: &[String]| paths.iter().any(|probe| probe == path);
        if is(&settings.readiness) {
            let leaving = self.shared.phase() > Phase::Serving;
            return Some(if leaving {
                plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
            } else {
                plain(StatusCode::OK, "ready\n")
            });
        }
        is(&settings.liveness).then(|| plain(StatusCode::OK, "alive\n"))
    }
}

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response<Tracked>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let path = request.uri().path();
        if let Some(answer) = self.probe(path) {
            return Box::pin(async move { Ok(finish(answer, &shared, None)) });
        }
        if !shared.settings().not_demand.iter().any(|quiet| quiet == path) {
            shared.note_demand();
        }
        self.connection.begin(format!("{} {path}", request.method()));
        let busy = Busy(Arc::clone(&self.connection));
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.connection.peer()));
        let answer = hyper::service::Service::call(&self.router, request);
        Box::pin(async move {
            let answer = caught(answer, &busy.0).await;
            Ok(finish(answer, &shared, Some(busy)))
        })
    }
}

/// Runs a handler with its panic caught: the client gets a 500 instead of a broken connection.
async fn caught(
    answer: impl Future<Output = Result<Response<Body>, Infallible>>,
    connection: &Connection,
) -> Response<Body> {
    let mut answer = Box::pin(isolated(epilogue_scope::record::current(), answer));
    let answered = std::future::poll_fn(|cx| connection.running(|| answer.as_mut().poll(cx))).await;
    match answered {
        Ok(Ok(response)) => response,
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the handler panicked\n"),
    }
}

fn finish(mut answer: Response<Body>, shared: &Arc<Shared>, busy: Option<Busy>) -> Response<Tracked> {
    if shared.phase() > Phase::Serving {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let kind = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let endless = kind.is_some_and(|kind| kind.starts_with(b"text/event-stream"));
    let ends = endless.then(|| {
        let shared = Arc::clone(shared);
        Box::pin(async move { shared.reached(Phase::Finishing).await }) as Ends
    });
    answer.map(|body| Tracked { body, busy, ends })
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

/// A request in flight, until its response body is done with or given up.
struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A response body that counts as in flight while it lives.
pub(super) struct Tracked {
    body: Body,
    busy: Option<Busy>,
    /// For a body without an end of its own: when it is to end all the same.
    ends: Option<Ends>,
}

type Ends = Pin<Box<dyn Future<Output = ()> + Send>>;

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(Busy(connection))) = (&polled, &self.busy)
            && let Some(data) = frame.data_ref()
        {
            connection.sent(data.len());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
