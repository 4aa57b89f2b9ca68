//! Reads a server's `/status`, without more of HTTP than that takes.

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_MAX: Duration = Duration::from_secs(3);

/// How far one replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Highest committed index that it knows of.
    pub commit: u64,
    /// Highest applied index.
    pub applied: u64,
}

/// Every replica of the store at `address`, by group; `None` when it does not answer.
pub async fn replicas(address: &str) -> Option<BTreeMap<u64, Place>> {
    let body = tokio::time::timeout(ANSWER_MAX, get(address, "/status")).await.ok()?.ok()?;
    let status: Value = serde_json::from_str(&body).ok()?;
    let mut places = BTreeMap::new();
    collect(&status, &mut places);
    Some(places)
}

/// Finds the objects that describe a replica, wherever they stand.
fn collect(value: &Value, places: &mut BTreeMap<u64, Place>) {
    match value {
        Value::Object(map) => {
            let number = |name: &str| map.get(name).and_then(Value::as_u64);
            if let (Some(group), Some(commit), Some(applied)) =
                (number("group"), number("commit"), number("applied"))
            {
                places.insert(group, Place { commit, applied });
            }
            map.values().for_each(|value| collect(value, places));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, places)),
        _ => {}
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_found_wherever_they_stand() {
        let json = r#"{"store":1,"replicas":[{"group":3,"commit":9,"applied":8},{"group":4}]}"#;
        let mut places = BTreeMap::new();
        collect(&serde_json::from_str(json).unwrap(), &mut places);
        assert_eq!(places, BTreeMap::from([(3, Place { commit: 9, applied: 8 })]));
    }
}
