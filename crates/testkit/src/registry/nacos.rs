//! The paths of Nacos: version 3 for clients, and version 1.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::State;
use super::store::{Instance, Protocol};

type Parameters = Query<HashMap<String, String>>;

pub(super) fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/v3/client/ns/instance", post(register_or_beat).delete(deregister_3))
        .route("/v3/client/ns/instance/list", get(list_3))
        .route("/v1/ns/instance", post(register_1).delete(deregister_1))
        .route("/v1/ns/instance/beat", put(beat_1))
        .route("/v1/ns/instance/list", get(list_1))
        .route("/v3/auth/user/login", post(log_in))
        .route("/v1/auth/login", post(log_in))
}

fn envelope(code: i64, message: &str, data: Value) -> Response {
    let status = if code == 0 { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    // What it knows and refuses is an answer all the same.
    let status = if code == 21003 { StatusCode::OK } else { status };
    (status, Json(json!({ "code": code, "message": message, "data": data }))).into_response()
}

/// The service as it is stored, and where the instance is.
fn instance(query: &HashMap<String, String>) -> Result<Instance, String> {
    let needed = |name: &str| {
        query.get(name).cloned().ok_or_else(|| format!("Required parameter '{name}' is missing"))
    };
    let (service, ip, port) = (needed("serviceName")?, needed("ip")?, needed("port")?);
    let ip = ip.parse().map_err(|_| format!("ip {ip} is none"))?;
    let port: u16 = port.parse().map_err(|_| format!("port {port} is none"))?;
    let metadata: BTreeMap<String, String> = match query.get("metadata") {
        Some(json) => serde_json::from_str(json).map_err(|error| format!("metadata: {error}"))?,
        None => BTreeMap::new(),
    };
    let weight =
        query.get("weight").map_or(Ok(1.0), |weight| weight.parse()).map_err(|_| "weight is none")?;
    Ok(Instance {
        service: plain(&service),
        address: SocketAddr::new(ip, port),
        weight,
        metadata,
        by: Protocol::Nacos,
        id: String::new(),
        heard: std::time::Duration::ZERO,
    })
}

/// Without its group.
fn plain(service: &str) -> String {
    service.rsplit_once("@@").map_or(service, |(_, service)| service).to_owned()
}

async fn register_or_beat(Extract(state): Extract<Arc<State>>, Query(query): Parameters) -> Response {
    let one = match instance(&query) {
        Ok(one) => one,
        Err(why) => return envelope(10000, &why, Value::Null),
    };
    if query.get("heartBeat").is_some_and(|beat| beat == "true") {
        let known = state.store().beat(|other| other.is_of(&one.service) && other.address == one.address);
        return if known {
            envelope(0, "success", json!("ok"))
        } else {
            envelope(21003, "not found", Value::Null)
        };
    }
    state.store().register(one);
    envelope(0, "success", json!("ok"))
}

async fn deregister_3(Extract(state): Extract<Arc<State>>, Query(query): Parameters) -> Response {
    match instance(&query) {
        // One that it does not know is success.
        Ok(one) => {
            state.store().remove(|other| other.is_of(&one.service) && other.address == one.address);
            envelope(0, "success", json!("ok"))
        }
        Err(why) => envelope(10000, &why, Value::Null),
    }
}

async fn register_1(Extract(state): Extract<Arc<State>>, Query(query): Parameters) -> Response {
    match instance(&query) {
        Ok(one) => {
            state.store().register(one);
            "ok".into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}

async fn deregister_1(Extract(state): Extract<Arc<State>>, Query(query): Parameters) -> Response {
    match instance(&query) {
        Ok(one) => {
            state.store().remove(|other| other.is_of(&one.service) && other.address == one.address);
            "ok".into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}

async fn beat_1(Extract(state): Extract<Arc<State>>, Query(query): Parameters) -> Response {
    let one = match instance(&query) {
        Ok(one) => one,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    let known = state.store().beat(|other| other.is_of(&one.service) && other.address == one.address);
    // One with the whole instance in it registers what is not known.
    let whole = query.contains_key("beat");
    if !known && whole {
        state.store().register(one);
    }
    let code = if known || whole { 10200 } else { 20404 };
    Json(json!({ "clientBeatInterval": 5000, "code": code, "lightBeatEnabled": true })).into_response()
}

fn hosts(state: &State, query: &HashMap<String, String>) -> Vec<Value> {
    let service = plain(query.get("serviceName").map_or("", String::as_str));
    let store = state.store();
    let host = |one: &Instance| {
        json!({
            "instanceId": format!("{}#{}#DEFAULT#DEFAULT_GROUP@@{}", one.address.ip(), one.address.port(), one.service),
            "ip": one.address.ip().to_string(),
            "port": one.address.port(),
            "weight": one.weight,
            "healthy": store.is_healthy(one),
            "enabled": true,
            "ephemeral": true,
            "clusterName": "DEFAULT",
            "serviceName": format!("DEFAULT_GROUP@@{}", one.service),
            "metadata": one.metadata,
        })
    };
    store.of(&service).map(host).collect()
}

async fn list_3(Extract(state): Extract<Arc<State>>, Query(query): Parameters) -> Response {
    envelope(0, "success", Value::Array(hosts(&state, &query)))
}

async fn list_1(Extract(state): Extract<Arc<State>>, Query(query): Parameters) -> Response {
    let name = format!("DEFAULT_GROUP@@{}", plain(query.get("serviceName").map_or("", String::as_str)));
    let hosts = hosts(&state, &query);
    Json(json!({ "name": name, "groupName": "DEFAULT_GROUP", "clusters": "", "cacheMillis": 10000, "hosts": hosts,
        "lastRefTime": 0, "checksum": "", "allIPs": false, "reachProtectionThreshold": false, "valid": true }))
    .into_response()
}

/// Takes them from a form, as they are.
async fn log_in(Extract(state): Extract<Arc<State>>, form: String) -> Response {
    let faults = state.faults();
    let field = |name: &str| {
        form.split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, text)| text.to_owned())
    };
    let given = (field("username"), field("password"));
    match &faults.login {
        Some((user, password)) if given != (Some(user.clone()), Some(password.clone())) => {
            (StatusCode::FORBIDDEN, "unknown user!").into_response()
        }
        _ => Json(json!({ "accessToken": format!("token-{}", faults.token), "tokenTtl": 18000, "globalAdmin": false }))
            .into_response(),
    }
}
