//! One request: probes answered, demand noted, panics turned into a 500, close announced.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;

use super::Paths;
use crate::server::Phase;
use crate::server::connections::{self, Admitted, Connection, Kind, Shared};
use epilogue_task::isolated;

pub(super) struct Handler {
    router: TowerToHyperService<Router>,
    paths: Arc<Paths>,
    shared: Arc<Shared>,
    place: Arc<Admitted>,
}

impl Handler {
    pub(super) fn new(admitted: &Arc<Admitted>, router: Router, paths: Arc<Paths>) -> Handler {
        Handler {
            paths,
            router: TowerToHyperService::new(router),
            shared: Arc::clone(&admitted.shared),
            place: Arc::clone(admitted),
        }
    }

    fn probe(&self, path: &str) -> Option<Response<Body>> {
        let is = |paths: &[String]| paths.iter().any(|probe| probe == path);
        if is(&self.paths.readiness) {
            let leaving = self.shared.phase() > Phase::Serving && !self.shared.is_handed_over();
            return Some(if leaving {
                plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
            } else {
                plain(StatusCode::OK, "ready\n")
            });
        }
        is(&self.paths.liveness).then(|| plain(StatusCode::OK, "alive\n"))
    }
}

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response<Tracked>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let place = Arc::clone(&self.place);
        let shared = &self.shared;
        let path = request.uri().path();
        if place.connection.kind() == Kind::Unknown {
            let two = request.version() == Version::HTTP_2;
            place.connection.becomes(if two { Kind::Http2 } else { Kind::Http1 });
        }
        place.connection.is_asked();
        let tunnel = request.method() == Method::CONNECT;
        if let Some(answer) = self.probe(path) {
            return Box::pin(async move { Ok(finish(answer, &place, None, false)) });
        }
        if !self.paths.not_demand.iter().any(|quiet| quiet == path) {
            shared.note_demand();
        }
        let begun = place.connection.begin(format!("{} {path}", request.method()));
        let busy = Busy(Arc::clone(&place.connection), begun);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(place.connection.peer()));
        let answer = hyper::service::Service::call(&self.router, request);
        Box::pin(async move {
            let answer = caught(answer, &busy.1).await;
            Ok(finish(answer, &place, Some(busy), tunnel))
        })
    }
}

/// Runs a handler with its panic caught: the client gets a 500 instead of a broken connection.
async fn caught(
    answer: impl Future<Output = Result<Response<Body>, Infallible>>,
    asked: &connections::Request,
) -> Response<Body> {
    let mut answer = Box::pin(isolated(epilogue_scope::record::current(), answer));
    let answered = std::future::poll_fn(|cx| asked.running(|| answer.as_mut().poll(cx))).await;
    match answered {
        Ok(Ok(response)) => response,
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the handler panicked\n"),
    }
}

fn finish(
    mut answer: Response<Body>,
    place: &Arc<Admitted>,
    busy: Option<Busy>,
    tunnel: bool,
) -> Response<Tracked> {
    let (shared, connection) = (&place.shared, &place.connection);
    let becomes_else = match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => true,
        status => tunnel && status.is_success(),
    };
    if becomes_else && connection.kind() != Kind::Http2 {
        let to = answer.headers().get(UPGRADE).map(HeaderValue::as_bytes).unwrap_or_default();
        let websocket = to.eq_ignore_ascii_case(b"websocket");
        connection.becomes(if websocket { Kind::WebSocket } else { Kind::Other });
    } else if shared.phase() > Phase::Serving {
        match connection.kind() {
            Kind::Http2 => connection.goes_away.notify_one(),
            _ => drop(answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"))),
        }
    }
    let ending = Ending::of(answer.headers(), place);
    answer.map(|body| Tracked { body, busy, ending })
}

/// When a body without an end of its own is to end all the same, and how.
struct Ending {
    when: Pin<Box<dyn Future<Output = ()> + Send>>,
    grpc: bool,
    over: bool,
}

impl Ending {
    fn of(headers: &HeaderMap, place: &Arc<Admitted>) -> Option<Ending> {
        let kind = headers.get(CONTENT_TYPE)?.as_bytes();
        // Not gRPC-Web, whose status is part of its body.
        let of_grpc = kind.strip_prefix(b"application/grpc");
        let grpc = of_grpc.is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';');
        let place = Arc::clone(place);
        let when: Pin<Box<dyn Future<Output = ()> + Send>> = if kind.starts_with(b"text/event-stream") {
            Box::pin(place.its_turn_to_be_told())
        } else if grpc {
            Box::pin(async move { place.shared.reached(Phase::StreamsCut).await })
        } else {
            return None;
        };
        Some(Ending { when, grpc, over: false })
    }

    /// The last frame, once it is time: of a gRPC response its status.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if !self.over {
            std::task::ready!(self.when.as_mut().poll(cx));
        }
        let first = !std::mem::replace(&mut self.over, true);
        Poll::Ready((self.grpc && first).then(|| {
            let mut status = HeaderMap::new();
            status.insert("grpc-status", HeaderValue::from_static("14"));
            status.insert("grpc-message", HeaderValue::from_static("the server is stopping"));
            Frame::trailers(status)
        }))
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

/// A request in flight, until its response body is done with or given up.
struct Busy(Arc<Connection>, Arc<connections::Request>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end(&self.1);
    }
}

/// A response body that counts as in flight while it lives.
pub(super) struct Tracked {
    body: Body,
    busy: Option<Busy>,
    ending: Option<Ending>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let over = this.ending.as_ref().is_some_and(|ending| ending.over);
        let polled = if over { Poll::Pending } else { Pin::new(&mut this.body).poll_frame(cx) };
        // What is there is sent first: a call that has taken long is answered all the same.
        if polled.is_pending()
            && let Some(ending) = &mut this.ending
        {
            return ending.poll(cx).map(|last| last.map(Ok));
        }
        if let (Poll::Ready(Some(Ok(frame))), Some(Busy(connection, request))) = (&polled, &this.busy)
            && let Some(data) = frame.data_ref()
        {
            request.sent(data.len());
            connection.handed_over(data.len());
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
