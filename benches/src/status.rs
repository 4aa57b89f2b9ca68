//! Reads a server's `/status` and `/metrics`, without more of HTTP than that takes.

use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_MAX: Duration = Duration::from_secs(3);

/// The status of the server at `address`; `None` when it does not answer in time.
pub async fn read(address: &str) -> Option<Value> {
    let body = tokio::time::timeout(ANSWER_MAX, get(address, "/status")).await.ok()?.ok()?;
    serde_json::from_str(&body).ok()
}

/// One figure of the server's `/metrics`, by its name without labels; `None` when it has none.
pub async fn metric(address: &str, name: &str) -> Option<f64> {
    let body = tokio::time::timeout(ANSWER_MAX, get(address, "/metrics")).await.ok()?.ok()?;
    body.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the body ends with the connection, in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(body.to_owned())
}
