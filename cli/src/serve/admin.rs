//! The admin listener: a versioned JSON API that the command line itself uses, metrics for Prometheus, health.
//!
//! It only reads, and says nothing secret; it still belongs on an address that strangers can't reach.

use crate::admin_api::{Health, Status};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use std::{future::Future, io, sync::Arc};
use tokio::{net::TcpListener, sync::watch};

/// What the listener asks its node.
pub(crate) trait AdminService: Send + Sync + 'static {
    /// The cluster as the node sees it; or how far its start has got.
    fn status(&self) -> impl Future<Output = Result<Status, String>> + Send;

    /// Whether the node serves.
    fn health(&self) -> Health;

    /// Every metric, as Prometheus reads it.
    fn metrics(&self) -> String;
}

/// The format of Prometheus' text, as it wants to be called.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until `stop` turns true, or its sender is gone, and then until the requests at hand are answered.
///
/// # Errors
/// The listener is broken.
pub(crate) async fn serve<S: AdminService>(
    listener: TcpListener,
    service: Arc<S>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let stopped = async move {
        // A sender that is gone ends the listener too.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, router(service)).with_graceful_shutdown(stopped).await
}

fn router<S: AdminService>(service: Arc<S>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health::<S>))
        .route("/metrics", get(metrics::<S>))
        .route("/v1/status", get(status::<S>))
        .fallback(unknown)
        .with_state(service)
}

async fn index() -> Response {
    Json(json!({ "resources": ["/health", "/metrics", "/v1/status"] })).into_response()
}

async fn health<S: AdminService>(State(service): State<Arc<S>>) -> Response {
    let health = service.health();
    let status = if health.serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

async fn metrics<S: AdminService>(State(service): State<Arc<S>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], service.metrics()).into_response()
}

async fn status<S: AdminService>(State(service): State<Arc<S>>) -> Response {
    match service.status().await {
        Ok(status) => Json(status).into_response(),
        Err(why) => {
            let message = format!("the node is starting: {why}");
            let error = json!({ "error": { "message": message, "advice": "wait, or see its log" } });
            (StatusCode::SERVICE_UNAVAILABLE, Json(error)).into_response()
        }
    }
}

async fn unknown(uri: Uri) -> Response {
    let message = format!("there is no resource {}", uri.path());
    let error = json!({ "error": { "message": message, "advice": "GET / lists the resources" } });
    (StatusCode::NOT_FOUND, Json(error)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin_api::tests::sample, admin_client, rt};

    struct Fake {
        serving: bool,
    }

    impl AdminService for Fake {
        async fn status(&self) -> Result<Status, String> {
            if self.serving { Ok(sample()) } else { Err("it opens its store".into()) }
        }

        fn health(&self) -> Health {
            let reason = (!self.serving).then(|| "the store has failed".into());
            Health { serving: self.serving, reason, withdrawn: false, warnings: Vec::new() }
        }

        fn metrics(&self) -> String {
            "rondel_core_members 3\n".into()
        }
    }

    /// Asks a listener for each path, then stops it and waits until it has ended.
    fn ask<const N: usize>(serving: bool, paths: [&str; N]) -> [admin_client::Answer; N] {
        rt::single_threaded().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (stop, stopped) = watch::channel(false);
            let asked = async {
                let mut answers = Vec::new();
                for path in paths {
                    answers.push(admin_client::get(&address, path).await.unwrap());
                }
                stop.send_replace(true);
                answers
            };
            let (served, answers) = tokio::join!(serve(listener, Arc::new(Fake { serving }), stopped), asked);
            served.unwrap();
            answers.try_into().ok().unwrap()
        })
    }

    #[test]
    fn health_is_200_or_503_with_the_reason() {
        let [well] = ask(true, ["/health"]);
        assert_eq!((well.status.as_u16(), well.text().as_str()), (200, r#"{"serving":true}"#));
        let [ill] = ask(false, ["/health"]);
        assert_eq!(ill.status.as_u16(), 503);
        assert_eq!(ill.text(), r#"{"serving":false,"reason":"the store has failed"}"#);
    }

    #[test]
    fn status_reads_back_as_it_was_and_metrics_are_text() {
        let [status, metrics] = ask(true, ["/v1/status", "/metrics"]);
        assert_eq!(serde_json::from_slice::<Status>(&status.body).unwrap(), sample());
        assert_eq!(metrics.text(), "rondel_core_members 3");
    }

    #[test]
    fn a_node_that_is_starting_has_no_status_and_says_how_far_it_is() {
        let [starting] = ask(false, ["/v1/status"]);
        assert_eq!(starting.status.as_u16(), 503);
        assert!(starting.text().contains("the node is starting: it opens its store"), "{}", starting.text());
    }

    #[test]
    fn an_unknown_resource_is_told_where_the_known_ones_are() {
        let [unknown, index] = ask(true, ["/v2/status", "/"]);
        assert_eq!(unknown.status.as_u16(), 404);
        assert!(unknown.text().contains("there is no resource /v2/status"));
        assert!(index.text().contains("/v1/status"));
    }
}
