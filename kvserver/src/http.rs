//! HTTP/1.1 beside gRPC on the one port: `/healthz`, `/status`, `/metrics`.

use crate::metrics::Metrics;
use crate::status::StatusSource;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;

/// The routes; requests for anything else get 404.
pub fn router(status: Arc<StatusSource>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/status", get(move || blocking("application/json", move || status.json())))
        .route("/metrics", get(move || blocking(prometheus::TEXT_FORMAT, move || metrics.text())))
}

/// Both answers ask other threads and may wait for them: never on a network thread.
async fn blocking(
    content_type: &'static str,
    text: impl FnOnce() -> String + Send + 'static,
) -> impl IntoResponse {
    match tokio::task::spawn_blocking(text).await {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
