//! Pages of a server over HTTP/1.1, made away from its network threads.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

/// Answers with what `text` makes. It may ask other threads and wait for them: it never runs on a
/// network thread.
pub async fn blocking(
    content_type: &'static str,
    text: impl FnOnce() -> String + Send + 'static,
) -> impl IntoResponse {
    match tokio::task::spawn_blocking(text).await {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
