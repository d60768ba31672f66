//! The bytes of a file, in pages that copies share until one of them writes.
//!
//! A file has two images: what running processes see, and what a power cut would leave. They share every page that
//! is durable, so a sync moves pointers and a snapshot costs nothing.

use std::{io, ops::Range, sync::Arc};

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4096;

/// The bytes of a file. Pages that nobody wrote are absent and read as zeroes.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pages: Vec<Option<Arc<[u8; PAGE_BYTES]>>>,
    len: usize,
}

impl Image {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn read(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, piece) in pieces(offset, out.len()) {
            match &self.pages[page] {
                Some(bytes) => out[piece].copy_from_slice(&bytes[within]),
                None => out[piece].fill(0),
            }
        }
        Ok(())
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if offset + bytes.len() > self.len {
            self.set_len(offset + bytes.len());
        }
        for (page, within, piece) in pieces(offset, bytes.len()) {
            self.page_mut(page)[within].copy_from_slice(&bytes[piece]);
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.pages.resize(len.div_ceil(PAGE_BYTES), None);
        let tail = len % PAGE_BYTES;
        // What lies behind the end must read as zeroes if the file grows again.
        if len < self.len && tail > 0 && self.pages.last().is_some_and(Option::is_some) {
            self.page_mut(len / PAGE_BYTES)[tail..].fill(0);
        }
        self.len = len;
    }

    /// Takes over the pages that hold this range from another image of the file.
    pub(super) fn share(&mut self, other: &Self, offset: usize, len: usize) {
        if offset + len > self.len {
            self.set_len(offset + len);
        }
        for (page, _, _) in pieces(offset, len) {
            if let Some(bytes) = other.pages.get(page) {
                self.pages[page].clone_from(bytes);
            }
        }
    }

    fn page_mut(&mut self, page: usize) -> &mut [u8; PAGE_BYTES] {
        Arc::make_mut(self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }

    /// The pages that hold anything but zeroes.
    pub(super) fn used_pages(&self) -> impl Iterator<Item = usize> {
        let used = |bytes: &Arc<[u8; PAGE_BYTES]>| bytes.iter().any(|byte| *byte != 0);
        self.pages
            .iter()
            .enumerate()
            .filter(move |(_, page)| page.as_ref().is_some_and(used))
            .map(|(at, _)| at)
    }

    /// Where these bytes stand: at least eight of them.
    pub(super) fn places_of(&self, bytes: &[u8]) -> Vec<usize> {
        let mut all = vec![0; self.len];
        for page in self.used_pages() {
            let (first, end) = (page * PAGE_BYTES, self.len.min((page + 1) * PAGE_BYTES));
            if let (Some(place), Some(held)) = (all.get_mut(first..end), &self.pages[page]) {
                place.copy_from_slice(&held[..place.len()]);
            }
        }
        // Comparing the first few as arrays is many times faster than comparing slices.
        let Some(first) = bytes.first_chunk::<8>() else { return Vec::new() };
        let begins = |(_, window): &(usize, &[u8])| window.first_chunk() == Some(first);
        let places = all.windows(first.len()).enumerate().filter(begins).map(|(at, _)| at);
        places.filter(|at| all[*at..].starts_with(bytes)).collect()
    }

    /// Changes one bit of a byte within the file.
    pub(super) fn flip(&mut self, offset: usize, bit: u8) {
        self.page_mut(offset / PAGE_BYTES)[offset % PAGE_BYTES] ^= 1 << (bit % 8);
    }

    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&self.len.to_le_bytes());
        for page in &self.pages {
            match page {
                Some(bytes) => hasher.update(&bytes[..]),
                None => hasher.update(&[0; PAGE_BYTES]),
            };
        }
    }
}

/// Cuts a range of a file at page borders: the page, the range within it, and the range within what is moved.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut at = offset;
    let end = offset + len;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (page, within) = (at / PAGE_BYTES, at % PAGE_BYTES);
        let step = (PAGE_BYTES - within).min(end - at);
        let piece = (page, within..within + step, at - offset..at - offset + step);
        at += step;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Rng;

    #[test]
    fn an_image_is_a_vector_of_bytes() {
        let mut rng = Rng::from_seed(7);
        let (mut image, mut model) = (Image::default(), Vec::new());
        for round in 0..2000_usize {
            let offset = rng.index(5 * PAGE_BYTES);
            let bytes = vec![round.to_le_bytes()[0]; rng.index(3 * PAGE_BYTES)];
            if rng.chance(0.2) {
                image.set_len(offset);
                model.resize(offset, 0);
            } else {
                model.resize(model.len().max(offset + bytes.len()), 0);
                model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                image.write(offset, &bytes);
            }
            let mut all = vec![1; image.len()];
            image.read(0, &mut all).unwrap();
            assert!(all == model, "round {round}");
            assert!(image.read(1, &mut all).is_err() || all.is_empty());
        }
    }

    #[test]
    fn a_copy_keeps_what_the_original_overwrites() {
        let mut image = Image::default();
        image.write(0, &[1; 2 * PAGE_BYTES]);
        let copy = image.clone();
        image.write(10, &[2; PAGE_BYTES]);
        let mut out = [0; 2 * PAGE_BYTES];
        copy.read(0, &mut out).unwrap();
        assert_eq!(out, [1; 2 * PAGE_BYTES]);
    }
}
