//! HTTP/1.1 beside gRPC on the one port: `/healthz`, `/status`, `/metrics`.

use crate::metrics::Metrics;
use crate::status::StatusSource;
use axum::Router;
use axum::routing::get;
use flotilla_placement::http::blocking;
use std::sync::Arc;

/// The routes; requests for anything else get 404. Status and metrics ask other threads and may wait
/// for them.
pub fn router(status: Arc<StatusSource>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/status", get(move || blocking("application/json", move || status.json())))
        .route("/metrics", get(move || blocking(prometheus::TEXT_FORMAT, move || metrics.text())))
}
