//! The HTTP surface.
//!
//! | request | answer |
//! |---|---|
//! | `POST /orders` `{"customer","item","quantity"}` | 201 `{"id"}`, after the commit |
//! | `GET /orders/{id}` | 200 the order, 404 |
//! | `GET /orders/{id}/invoice` | 200, streamed over about two seconds |
//! | `POST /uploads` | 201 `{"name","bytes"}`, spooled to a temporary file first |

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::Settings;
use crate::hooks::Hooks;
use crate::spool::{self, MakeSpool};
use crate::store::{NewOrder, Order, Store, StoreError};

const INVOICE_LINES: u32 = 20;
const INVOICE_PACE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Orders {
    store: Store,
    spool: PathBuf,
    uploads: PathBuf,
    make_spool: MakeSpool,
}

/// The routes that both styles serve. Every response names this instance in `x-instance`.
pub fn router(settings: &Settings, store: Store, make_spool: MakeSpool, hooks: &Hooks) -> Router {
    let orders = Orders {
        store,
        spool: settings.run.join("spool"),
        uploads: settings.data.join("uploads"),
        make_spool,
    };
    let router = Router::new()
        .route("/orders", post(create))
        .route("/orders/{id}", get(show))
        .route("/orders/{id}/invoice", get(invoice))
        .route("/uploads", post(upload))
        .with_state(orders);
    let router = if settings.hooks { router.merge(hooks.routes()) } else { router };
    let instance = instance();
    router.layer(axum::middleware::map_response(move |mut response: Response<Body>| {
        response.headers_mut().insert(HeaderName::from_static("x-instance"), instance.clone());
        async { response }
    }))
}

/// A name that no other run of the service has, not even one with the same pid.
fn instance() -> HeaderValue {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    HeaderValue::from_str(&format!("{}-{started}", std::process::id()))
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

async fn create(State(orders): State<Orders>, Json(order): Json<NewOrder>) -> Result<Answer, Failure> {
    if order.quantity == 0 {
        return Err(Failure::Invalid("quantity: 0 is not an order; the least is 1".into()));
    }
    let id = orders.store.add(order).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

type Answer = (StatusCode, Json<serde_json::Value>);

async fn show(State(orders): State<Orders>, Path(id): Path<i64>) -> Result<Json<Order>, Failure> {
    orders.store.get(id).await?.map(Json).ok_or(Failure::NotFound(id))
}

async fn invoice(State(orders): State<Orders>, Path(id): Path<i64>) -> Result<Response<Body>, Failure> {
    let order = orders.store.get(id).await?.ok_or(Failure::NotFound(id))?;
    let mut pace = interval(INVOICE_PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Response::new(Body::new(Invoice { order, line: 0, pace })))
}

async fn upload(State(orders): State<Orders>, request: Request) -> Result<Answer, Failure> {
    let name = spool::name();
    let spool = (orders.make_spool)(orders.spool.join(&name))?;
    let mut file = tokio::fs::File::create(spool.path()).await?;
    let mut body = request.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Invalid(format!("body: {error}")))?;
        if let Some(data) = frame.data_ref() {
            file.write_all(data).await?;
            bytes += data.len();
        }
    }
    file.sync_all().await?;
    tokio::fs::create_dir_all(&orders.uploads).await?;
    spool.keep(&orders.uploads.join(&name))?;
    Ok((StatusCode::CREATED, Json(json!({ "name": name, "bytes": bytes }))))
}

/// An invoice as it is being written: a line every tenth of a second.
struct Invoice {
    order: Order,
    line: u32,
    pace: Interval,
}

impl http_body::Body for Invoice {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.line == INVOICE_LINES {
            return Poll::Ready(None);
        }
        if self.pace.poll_tick(cx).is_pending() {
            return Poll::Pending;
        }
        self.line += 1;
        let Order { id, order } = &self.order;
        let text = format!(
            "invoice {id}, line {} of {INVOICE_LINES}: {} x {} for {}\n",
            self.line, order.quantity, order.item, order.customer
        );
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}

enum Failure {
    Invalid(String),
    NotFound(i64),
    Store(StoreError),
    Disk(std::io::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Store(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Disk(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        let (status, error) = match self {
            Failure::Invalid(what) => (StatusCode::BAD_REQUEST, what),
            Failure::NotFound(id) => (StatusCode::NOT_FOUND, format!("no order {id}")),
            Failure::Store(StoreError::Closed) => (StatusCode::SERVICE_UNAVAILABLE, "stopping".into()),
            Failure::Store(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            Failure::Disk(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("disk: {error}")),
        };
        (status, Json(json!({ "error": error }))).into_response()
    }
}
