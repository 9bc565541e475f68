//! The paths of Eureka.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::State;
use super::store::{Instance, Protocol};

pub(super) fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/apps/{app}", post(register).get(application))
        .route("/apps/{app}/{id}", put(beat).delete(deregister))
        .route("/apps", get(applications))
}

async fn register(
    Extract(state): Extract<Arc<State>>,
    Path(app): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    match read(&app, &body["instance"]) {
        Ok(instance) => {
            state.store().register(instance);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}

fn read(app: &str, instance: &Value) -> Result<Instance, &'static str> {
    let text = |name: &str, why| instance[name].as_str().filter(|text| !text.is_empty()).ok_or(why);
    let id = text("instanceId", "Missing instanceId")?;
    text("hostName", "Missing hostname")?;
    let ip = text("ipAddr", "Missing ip address")?;
    let name = text("app", "Missing appName")?;
    if name != app.to_uppercase() {
        return Err("Mismatched appName, expecting the one of the path in capitals");
    }
    if instance["dataCenterInfo"].is_null() {
        return Err("Missing dataCenterInfo");
    }
    if instance["dataCenterInfo"]["name"].is_null() {
        return Err("Missing dataCenterInfo Name");
    }
    let port =
        instance["port"]["$"].as_u64().and_then(|port| u16::try_from(port).ok()).ok_or("Missing port")?;
    let said = instance["metadata"].as_object().into_iter().flatten();
    let metadata: BTreeMap<String, String> =
        said.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    Ok(Instance {
        service: app.to_uppercase(),
        address: SocketAddr::new(ip.parse().map_err(|_| "Missing ip address")?, port),
        weight: 1.0,
        metadata,
        by: Protocol::Eureka,
        id: id.to_owned(),
        heard: std::time::Duration::ZERO,
    })
}

fn status(known: bool) -> StatusCode {
    if known { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

async fn beat(Extract(state): Extract<Arc<State>>, Path((app, id)): Path<(String, String)>) -> StatusCode {
    status(state.store().beat(|one| one.is_of(&app) && one.id == id))
}

async fn deregister(
    Extract(state): Extract<Arc<State>>,
    Path((app, id)): Path<(String, String)>,
) -> StatusCode {
    status(state.store().remove(|one| one.is_of(&app) && one.id == id))
}

fn tell(instance: &Instance) -> Value {
    // An empty one is written so.
    let empty = json!({ "@class": "java.util.Collections$EmptyMap" });
    let metadata = if instance.metadata.is_empty() { empty } else { json!(instance.metadata) };
    json!({
        "instanceId": instance.id,
        "hostName": instance.address.ip().to_string(),
        "app": instance.service,
        "ipAddr": instance.address.ip().to_string(),
        "status": "UP",
        "port": { "$": instance.address.port(), "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" },
        "metadata": metadata,
    })
}

/// Of one instance there is no list: the JSON was made of XML.
fn one_or_many(mut all: Vec<Value>) -> Value {
    if all.len() == 1 { all.remove(0) } else { Value::Array(all) }
}

async fn application(Extract(state): Extract<Arc<State>>, Path(app): Path<String>) -> Response {
    let all: Vec<Value> = state.store().healthy(&app).map(tell).collect();
    if all.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    Json(json!({ "application": { "name": app.to_uppercase(), "instance": one_or_many(all) } }))
        .into_response()
}

async fn applications(Extract(state): Extract<Arc<State>>) -> Response {
    let all = state.store().applications();
    let told = all.into_iter().map(|(name, instances)| {
        json!({ "name": name, "instance": one_or_many(instances.iter().map(tell).collect()) })
    });
    Json(json!({ "applications": { "versions__delta": "1", "apps__hashcode": "", "application": told.collect::<Vec<_>>() } }))
        .into_response()
}
