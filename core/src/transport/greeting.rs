//! The exchange of hellos, and what follows from it: which messages both sides know alike.

use bytes::BytesMut;
use quinn::{RecvStream, SendStream};
use rondel_proto::hello::{Hello, HelloError, PREFIX_BYTES};

/// Why no hello came.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetingError {
    /// The stream ended first.
    #[error("the connection ended before the hello: {0}")]
    Ended(String),
    /// What came is none.
    #[error(transparent)]
    Hello(#[from] HelloError),
}

impl From<quinn::ReadExactError> for GreetingError {
    fn from(error: quinn::ReadExactError) -> Self {
        Self::Ended(error.to_string())
    }
}

pub(super) async fn send_hello(stream: &mut SendStream, hello: &Hello) -> Result<(), GreetingError> {
    stream.write_chunk(hello.encode()).await.map_err(|error| GreetingError::Ended(error.to_string()))
}

pub(super) async fn receive_hello(stream: &mut RecvStream) -> Result<Hello, GreetingError> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let mut body = BytesMut::zeroed(Hello::body_len(prefix)?);
    stream.read_exact(&mut body).await?;
    Ok(Hello::decode(&body)?)
}

/// The messages that two nodes know by the same schema. rkyv would read another one as something else (measured).
pub(super) struct CommonMessages(Vec<(u32, u16)>);

impl CommonMessages {
    pub(super) fn of(ours: &Hello, theirs: &Hello) -> Self {
        let mut known = theirs.messages.clone();
        known.sort_unstable();
        let common = |message: &&_| known.binary_search(message).is_ok();
        let mut messages: Vec<_> =
            ours.messages.iter().filter(common).map(|known| (known.service, known.message)).collect();
        messages.sort_unstable();
        Self(messages)
    }

    pub(super) fn contains(&self, service: u32, message: u16) -> bool {
        self.0.binary_search(&(service, message)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rondel_proto::hello::Known;

    #[test]
    fn a_message_is_common_only_with_the_same_schema() {
        let hello = |messages: &[(u32, u16, u64)]| Hello {
            messages: messages
                .iter()
                .map(|&(service, message, schema)| Known { service, message, schema })
                .collect(),
            ..Hello::default()
        };
        let common = CommonMessages::of(
            &hello(&[(2, 1, 7), (1, 1, 5), (1, 2, 6)]),
            &hello(&[(1, 1, 5), (1, 2, 9), (2, 1, 7)]),
        );
        assert!(common.contains(1, 1) && common.contains(2, 1));
        assert!(!common.contains(1, 2) && !common.contains(3, 1));
    }
}
