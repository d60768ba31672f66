//! A client of the admin listeners: small JSON requests over HTTP/1.1, one connection each.

use crate::{failure::Advise, rt};
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// An answer.
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// What a node says instead of an answer, if it does.
    pub(crate) fn refusal(&self) -> Option<String> {
        let error = serde_json::from_slice::<serde_json::Value>(&self.body).ok()?;
        Some(error.pointer("/error/message")?.as_str()?.to_owned())
    }

    /// The body as this release's JSON, which came from there.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn json<T: DeserializeOwned>(&self, address: &str, path: &str) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| {
                format!("http://{address}{path} answers {} and something else than a node does", self.status)
            })
            .advise(|| format!("check that {address} is the admin listener of a node"))
    }
}

/// Asks for a resource, whatever the status.
///
/// # Errors
/// There is nobody, or no answer in time.
pub(crate) async fn get(address: &str, path: &str) -> anyhow::Result<Answer> {
    get_within(address, path, TIMEOUT).await
}

/// As [`get`], with a limit of one's own.
///
/// # Errors
/// As [`get`].
pub(crate) async fn get_within(address: &str, path: &str, limit: Duration) -> anyhow::Result<Answer> {
    send_within(address, Request::get(path).body(Full::default())?, limit).await
}

/// Sends a JSON value with a secret; the answer may take as long as it wants.
///
/// # Errors
/// There is nobody, or the connection breaks.
pub(crate) async fn post_json(
    address: &str,
    path: &str,
    secret: &str,
    body: &impl Serialize,
) -> anyhow::Result<Answer> {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {secret}"))
        .body(Full::from(serde_json::to_vec(body)?))?;
    send_within(address, request, Duration::MAX).await
}

async fn send_within(
    address: &str,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> anyhow::Result<Answer> {
    match rt::timeout(limit, exchange(address, request)).await {
        Ok(answer) => answer,
        Err(_) => bail!("{address} did not answer within {} s", limit.as_secs()),
    }
}

async fn exchange(address: &str, mut request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    let host =
        header::HeaderValue::from_str(address).with_context(|| format!("`{address}` is no address"))?;
    request.headers_mut().insert(header::HOST, host);
    let talk = || format!("{address} does not speak HTTP as a node does");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(talk)?;
    let answered = async {
        let response = sender.send_request(request).await.with_context(talk)?;
        let status = response.status();
        let body = match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => bail!("the answer of {address} broke off: {error}"),
        };
        Ok(Answer { status, body })
    };
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // The connection may end just before its last answer has been taken.
        _ = connection => answered.await,
    }
}
