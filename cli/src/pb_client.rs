//! A client of Riak's Protocol Buffers interface, for any server that speaks it.
//!
//! One connection, one request in flight; buffers are kept between requests. A request whose answer was not awaited
//! to its end (a timeout, a dropped future or listing) leaves the connection out of step, and every later request on
//! it fails with [`PbError::OutOfStep`] rather than take another's answer for its own: connect anew.

use crate::rt;
use bytes::{Bytes, BytesMut};
use rondel_proto::riak::{
    Code, Coded,
    messages::*,
    pbc::{self, DecodeError, Frame, FrameError},
};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a client waits for the server unless told otherwise: Riak's own limit for a request, and a little more.
#[cfg(test)]
pub(crate) const TIMEOUT: Duration = Duration::from_secs(65);
/// What is read at once. Larger answers make the buffer grow.
const READ_BYTES: usize = 16 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PbError {
    /// The server refused or failed; the text is the server's. The connection stays usable unless the server closes it.
    #[error("{0}")]
    Server(String),
    /// The server can't be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// Whom.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke. Whether the request was done is unknown.
    #[error("connection lost")]
    Io(#[from] io::Error),
    /// The server closed the connection. Whether the request was done is unknown.
    #[error("connection closed by the server")]
    Closed,
    /// No answer in time. Whether the request was done is unknown.
    #[error("no answer from the server")]
    Elapsed(#[from] rt::Elapsed),
    /// The answer is no frame.
    #[error("not Riak's protocol")]
    Frame(#[from] FrameError),
    /// The answer does not decode.
    #[error("not Riak's protocol")]
    Decode(#[from] DecodeError),
    /// An answer to another request.
    #[error("message {got} where {want} was due")]
    Unexpected {
        /// The code that came.
        got: u8,
        /// The message that was due.
        want: Code,
    },
    /// An earlier request was given up before its answer had come. Nothing was sent.
    #[error("an earlier request was given up; connect anew")]
    OutOfStep,
}

impl PbError {
    /// What to do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Server(_) => {
                "the server refused; check the request, and `rondel status` for the nodes that are down"
            }
            Self::Connect { .. } => "check that a node runs there, or name others with --hosts",
            _ => "check the node with `rondel status`, or name others with --hosts",
        }
    }
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct PbClient {
    stream: TcpStream,
    received: BytesMut,
    out: BytesMut,
    timeout: Duration,
    in_flight: bool,
}

impl PbClient {
    /// Connects to `host:port`. `timeout` bounds connecting and the wait for each frame of an answer.
    ///
    /// # Errors
    /// [`PbError::Connect`] or [`PbError::Elapsed`].
    pub(crate) async fn connect(address: &str, timeout: Duration) -> Result<Self, PbError> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = rt::timeout(timeout, connecting)
            .await?
            .map_err(|source| PbError::Connect { address: address.to_owned(), source })?;
        Ok(Self { stream, received: BytesMut::new(), out: BytesMut::new(), timeout, in_flight: false })
    }

    /// Whether the server answers.
    #[cfg(test)]
    pub(crate) async fn ping(&mut self) -> Result<(), PbError> {
        self.call_empty(Code::RpbPingReq, Code::RpbPingResp).await.map(drop)
    }

    /// Who answers.
    pub(crate) async fn server_info(&mut self) -> Result<RpbGetServerInfoResp, PbError> {
        let payload = self.call_empty(Code::RpbGetServerInfoReq, Code::RpbGetServerInfoResp).await?;
        Ok(pbc::decode(payload)?)
    }

    /// Reads an object. Not found is an answer without content and vclock.
    pub(crate) async fn get(&mut self, request: &RpbGetReq) -> Result<RpbGetResp, PbError> {
        self.call(request).await
    }

    /// Writes an object.
    pub(crate) async fn put(&mut self, request: &RpbPutReq) -> Result<RpbPutResp, PbError> {
        self.call(request).await
    }

    /// Deletes an object, if it is there.
    pub(crate) async fn delete(&mut self, request: &RpbDelReq) -> Result<(), PbError> {
        self.send(request).await?;
        self.receive_last(Code::RpbDelResp).await.map(drop)
    }

    /// The properties of a bucket.
    #[cfg(test)]
    pub(crate) async fn bucket_props(
        &mut self,
        request: &RpbGetBucketReq,
    ) -> Result<RpbBucketProps, PbError> {
        let answer: RpbGetBucketResp = self.call(request).await?;
        Ok(answer.props)
    }

    /// Lists the keys of a bucket.
    pub(crate) async fn list_keys(&mut self, request: &RpbListKeysReq) -> Result<Listing<'_>, PbError> {
        self.send(request).await?;
        Ok(Listing { client: self, of: Listed::Keys })
    }

    /// Lists the buckets of a type, whether or not the request asks for a stream.
    pub(crate) async fn list_buckets(&mut self, request: &RpbListBucketsReq) -> Result<Listing<'_>, PbError> {
        self.send(request).await?;
        Ok(Listing { client: self, of: Listed::Buckets { stream: request.stream() } })
    }

    /// One request, one answer.
    async fn call<Q: Coded, A: Coded>(&mut self, request: &Q) -> Result<A, PbError> {
        self.send(request).await?;
        Ok(pbc::decode(self.receive_last(A::CODE).await?)?)
    }

    async fn call_empty(&mut self, request: Code, answer: Code) -> Result<Bytes, PbError> {
        pbc::put_empty(self.begin()?, request);
        self.flush().await?;
        self.receive_last(answer).await
    }

    async fn send<Q: Coded>(&mut self, request: &Q) -> Result<(), PbError> {
        pbc::put(self.begin()?, request)?;
        self.flush().await
    }

    /// The buffer for the next request.
    fn begin(&mut self) -> Result<&mut BytesMut, PbError> {
        if self.in_flight {
            return Err(PbError::OutOfStep);
        }
        self.out.clear();
        Ok(&mut self.out)
    }

    async fn flush(&mut self) -> Result<(), PbError> {
        self.in_flight = true;
        Ok(rt::timeout(self.timeout, self.stream.write_all(&self.out)).await??)
    }

    /// The payload of the only frame, or the last one, of an answer.
    async fn receive_last(&mut self, want: Code) -> Result<Bytes, PbError> {
        let payload = self.receive(want).await?;
        self.in_flight = false;
        Ok(payload)
    }

    /// The payload of the next frame of an answer. A refusal ends the answer.
    async fn receive(&mut self, want: Code) -> Result<Bytes, PbError> {
        let frame = rt::timeout(self.timeout, next_frame(&mut self.stream, &mut self.received)).await??;
        if frame.code == want.number() {
            return Ok(frame.payload);
        }
        if frame.code != Code::RpbErrorResp.number() {
            return Err(PbError::Unexpected { got: frame.code, want });
        }
        let refusal: RpbErrorResp = pbc::decode(frame.payload)?;
        self.in_flight = false;
        Err(PbError::Server(String::from_utf8_lossy(&refusal.errmsg).into_owned()))
    }
}

async fn next_frame(stream: &mut TcpStream, received: &mut BytesMut) -> Result<Frame, PbError> {
    loop {
        if let Some(frame) = pbc::take_frame(received, u32::MAX as usize)? {
            return Ok(frame);
        }
        received.reserve(READ_BYTES);
        if stream.read_buf(received).await? == 0 {
            return Err(PbError::Closed);
        }
    }
}

/// A listing that is under way. Dropped before its end, it leaves the connection out of step.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    client: &'a mut PbClient,
    of: Listed,
}

#[derive(Debug, Clone, Copy)]
enum Listed {
    Keys,
    Buckets {
        stream: bool,
    },
    /// The last frame has come.
    Nothing,
}

impl Listing<'_> {
    /// The next names, in no order; `None` after the last.
    ///
    /// # Errors
    /// The server's text if it gave up: the names so far are not all.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, PbError> {
        let (names, last) = match self.of {
            Listed::Nothing => return Ok(None),
            Listed::Keys => {
                let batch: RpbListKeysResp = pbc::decode(self.client.receive(Code::RpbListKeysResp).await?)?;
                let last = batch.done();
                (batch.keys, last)
            }
            Listed::Buckets { stream } => {
                let batch: RpbListBucketsResp =
                    pbc::decode(self.client.receive(Code::RpbListBucketsResp).await?)?;
                let last = !stream || batch.done();
                (batch.buckets, last)
            }
        };
        if last {
            self.of = Listed::Nothing;
            self.client.in_flight = false;
        }
        Ok(Some(names))
    }

    /// All names at once.
    ///
    /// # Errors
    /// As [`Listing::next`].
    pub(crate) async fn collect(mut self) -> Result<Vec<Bytes>, PbError> {
        let mut all = Vec::new();
        while let Some(mut names) = self.next().await? {
            all.append(&mut names);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use tokio::net::TcpListener;

    /// Runs a client against a server that reads as many bytes as `expects` holds, then writes `answers` piece by
    /// piece, and closes.
    fn against<F: Future<Output = ()>>(
        expects: Vec<u8>,
        answers: Vec<Vec<u8>>,
        client: impl FnOnce(PbClient) -> F,
    ) {
        rt::single_threaded().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut got = vec![0; expects.len()];
                stream.read_exact(&mut got).await.unwrap();
                assert_eq!(got, expects);
                for piece in answers {
                    stream.write_all(&piece).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let client = async { client(PbClient::connect(&address, TIMEOUT).await.unwrap()).await };
            tokio::join!(server, client);
        });
    }

    fn frame<M: Coded>(message: &M) -> Vec<u8> {
        let mut out = BytesMut::new();
        pbc::put(&mut out, message).unwrap();
        out.to_vec()
    }

    fn keys_of(bucket: &'static str) -> RpbListKeysReq {
        RpbListKeysReq { bucket: bucket.into(), ..RpbListKeysReq::default() }
    }

    #[test]
    fn an_answer_arrives_however_it_is_cut() {
        let answer =
            frame(&RpbGetServerInfoResp { node: Some("n".into()), server_version: Some("2.2.3".into()) });
        let pieces = answer.chunks(1).map(<[u8]>::to_vec).collect();
        against(vec![0, 0, 0, 1, 7], pieces, |mut client| async move {
            let server = client.server_info().await.unwrap();
            assert_eq!(server.server_version.as_deref(), Some(&b"2.2.3"[..]));
            assert!(matches!(client.ping().await, Err(PbError::Closed | PbError::Io(_))));
        });
    }

    #[test]
    fn a_listing_takes_frames_until_done() {
        let batch = |keys: &[&'static str], done| RpbListKeysResp {
            keys: keys.iter().map(|&key| key.into()).collect(),
            done,
        };
        let mut answers = frame(&batch(&["a", "b"], None));
        answers.extend(frame(&batch(&["c"], None)));
        answers.extend(frame(&batch(&[], Some(true))));
        answers.extend([0, 0, 0, 1, 2]);
        let mut expects = frame(&keys_of("b"));
        expects.extend([0, 0, 0, 1, 1]);
        let (before, after) = expects.split_at(expects.len() - 5);
        assert_eq!(after, [0, 0, 0, 1, 1]);
        against(before.to_vec(), vec![answers], |mut client| async move {
            let keys = client.list_keys(&keys_of("b")).await.unwrap().collect().await.unwrap();
            assert_eq!(keys, ["a", "b", "c"]);
            client.ping().await.expect("the connection is in step");
        });
    }

    #[test]
    fn a_lone_answer_to_a_listing_of_buckets_is_its_end() {
        let request = RpbListBucketsReq::default();
        let answer = frame(&RpbListBucketsResp { buckets: vec!["b".into()], done: None });
        against(frame(&request), vec![answer], |mut client| async move {
            assert_eq!(client.list_buckets(&request).await.unwrap().collect().await.unwrap(), ["b"]);
        });
    }

    #[test]
    fn a_refusal_leaves_the_connection_usable() {
        let mut answers = frame(&RpbErrorResp { errmsg: "timeout".into(), errcode: 0 });
        answers.extend([0, 0, 0, 1, 2]);
        against(frame(&keys_of("b")), vec![answers], |mut client| async move {
            let refused = client.list_keys(&keys_of("b")).await.unwrap().collect().await;
            assert!(matches!(refused, Err(PbError::Server(text)) if text == "timeout"));
            client.ping().await.expect("the connection is in step");
        });
    }

    #[test]
    fn a_listing_given_up_puts_the_connection_out_of_step() {
        let answers = frame(&RpbListKeysResp { keys: vec!["a".into()], done: None });
        against(frame(&keys_of("b")), vec![answers], |mut client| async move {
            client.list_keys(&keys_of("b")).await.unwrap().next().await.unwrap();
            assert!(matches!(client.ping().await, Err(PbError::OutOfStep)));
        });
    }

    #[test]
    fn an_answer_to_another_question_is_an_error() {
        against(vec![0, 0, 0, 1, 1], vec![vec![0, 0, 0, 1, 14]], |mut client| async move {
            let want = Code::RpbPingResp;
            assert!(
                matches!(client.ping().await, Err(PbError::Unexpected { got: 14, want: w }) if w == want)
            );
            assert!(matches!(client.ping().await, Err(PbError::OutOfStep)));
        });
    }
}
