//! What holds for every decoder of a stream: the chunks that bytes arrive in do not matter.

use bytes::BytesMut;
use std::fmt::Debug;

/// The frames in `bytes`, whose first byte chooses the chunks in which the rest arrives.
pub(super) fn frames_of<F, E>(bytes: &[u8], take: fn(&mut BytesMut) -> Result<Option<F>, E>) -> Vec<F>
where
    F: Debug + PartialEq,
    E: Debug + PartialEq,
{
    let Some((&first, stream)) = bytes.split_first() else { return Vec::new() };
    let mut at_once = Reader::new(take);
    at_once.feed(stream);
    let mut in_parts = Reader::new(take);
    in_chunks(stream, usize::from(first) + 1, |chunk| in_parts.feed(chunk));
    assert_eq!(at_once.frames, in_parts.frames, "frames do not depend on the chunks they arrive in");
    assert_eq!(at_once.error, in_parts.error, "nor do errors");
    at_once.frames
}

fn in_chunks(mut rest: &[u8], mut len: usize, mut feed: impl FnMut(&[u8])) {
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(len.min(rest.len()));
        feed(chunk);
        rest = after;
        len = len * 5 % 257 + 1;
    }
}

struct Reader<F, E> {
    take: fn(&mut BytesMut) -> Result<Option<F>, E>,
    buffer: BytesMut,
    frames: Vec<F>,
    error: Option<E>,
}

impl<F, E> Reader<F, E> {
    fn new(take: fn(&mut BytesMut) -> Result<Option<F>, E>) -> Self {
        Self { take, buffer: BytesMut::new(), frames: Vec::new(), error: None }
    }

    fn feed(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
        while self.error.is_none() {
            match (self.take)(&mut self.buffer) {
                Ok(Some(frame)) => self.frames.push(frame),
                Ok(None) => return,
                Err(error) => self.error = Some(error),
            }
        }
    }
}
