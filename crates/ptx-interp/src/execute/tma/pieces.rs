//! Boxes in pieces of 16 bytes: where each lies in shared and in global memory.

use crate::decode::BulkCompletion;
use crate::machine::Piece;
use crate::tensor_map::{OutOfBoundsFill, TensorMapDescription};

/// Bytes that travel together: what swizzles permute.
pub(super) const PIECE_BYTES: u32 = 16;

/// Pieces of the box at these coordinates, and the bytes of the whole box.
///
/// Lines that are shorter than the swizzle's span lie a span apart. A load ends where the tensor does; a store, as an
/// H200 has it, at the next multiple of 16 bytes.
pub(crate) fn pieces_of(
    map: &TensorMapDescription,
    coordinates: &[i32],
    shared: u32,
    (buffer, buffer_base): (usize, u64),
    completion: &BulkCompletion,
) -> (Vec<Piece>, u32) {
    let element = i64::from(map.element.bytes());
    let rank = map.dims.len();
    let sides: Vec<u32> =
        map.box_dims.iter().zip(&map.element_strides).map(|(side, stride)| side.div_ceil(*stride)).collect();
    let inner_bytes = sides[0] * element as u32;
    let lines: u32 = sides[1..].iter().product();
    let per_piece = i64::from(PIECE_BYTES) / element;
    let pitch = pitch_of(map, inner_bytes);
    let width = match completion {
        BulkCompletion::Mbarrier(_) => map.dims[0] as i64,
        BulkCompletion::Group => (map.dims[0] as i64).saturating_add(per_piece - 1) / per_piece * per_piece,
    };
    let mut pieces = Vec::with_capacity((lines * inner_bytes / PIECE_BYTES) as usize);
    for line in 0..lines {
        let mut rest = line;
        let mut inside = true;
        let mut offset = map.address as i64 - buffer_base as i64;
        for dimension in 1..rank {
            let step = rest % sides[dimension] * map.element_strides[dimension];
            rest /= sides[dimension];
            let index = i64::from(coordinates[dimension]) + i64::from(step);
            inside &= index >= 0 && (index as u64) < map.dims[dimension];
            offset = offset.wrapping_add(index.wrapping_mul(map.strides[dimension - 1] as i64));
        }
        for piece in 0..inner_bytes / PIECE_BYTES {
            let place = map.swizzle.apply(shared + line * pitch + piece * PIECE_BYTES);
            let first = i64::from(coordinates[0]) + i64::from(piece) * per_piece;
            let begin = first.max(0);
            let end = (first + per_piece).min(width);
            let (start, length) = if inside && begin < end {
                (((begin - first) * element) as u8, ((end - begin) * element) as u8)
            } else {
                (0, 0)
            };
            let global = if length == 0 { 0 } else { offset.wrapping_add(begin * element) as usize };
            pieces.push(Piece { shared: place, buffer, global, start, length });
        }
    }
    (pieces, lines * inner_bytes)
}

/// Bytes of shared memory from one line of a box to the next.
fn pitch_of(map: &TensorMapDescription, inner_bytes: u32) -> u32 {
    map.swizzle.span().unwrap_or(inner_bytes)
}

/// The shared memory that a box from `start` on takes: all of it side by side, or piece by piece where its lines are
/// shorter than the swizzle's span.
pub(crate) fn ranges_of(pieces: &[Piece], start: u32, bytes: u32) -> Vec<(u32, u32)> {
    let last = pieces.iter().map(|piece| piece.shared).max().unwrap_or(start);
    match last + PIECE_BYTES == start + bytes {
        true => vec![(start, bytes)],
        false => pieces.iter().map(|piece| (piece.shared, PIECE_BYTES)).collect(),
    }
}

/// The shared memory that a store reads. Of what lies outside of the tensor nothing arrives anywhere: whatever is there,
/// it need not have been written.
pub(crate) fn stored_ranges_of(pieces: &[Piece]) -> Vec<(u32, u32)> {
    let mut stored: Vec<u32> = pieces.iter().filter(|piece| piece.length > 0).map(|piece| piece.shared).collect();
    stored.sort_unstable();
    let runs = stored.chunk_by(|piece, next| piece + PIECE_BYTES == *next);
    runs.map(|run| (run[0], run.len() as u32 * PIECE_BYTES)).collect()
}

pub(crate) fn plain_pieces(shared: u32, (buffer, global): (usize, usize), bytes: u32) -> Vec<Piece> {
    (0..bytes / PIECE_BYTES)
        .map(|piece| Piece {
            shared: shared + piece * PIECE_BYTES,
            buffer,
            global: global + (piece * PIECE_BYTES) as usize,
            start: 0,
            length: PIECE_BYTES as u8,
        })
        .collect()
}

pub(crate) fn fill_of(map: &TensorMapDescription) -> [u8; 16] {
    let mut fill = [0; 16];
    if map.fill == OutOfBoundsFill::Nan {
        // The same 16 bits whatever the type.
        for chunk in fill.chunks_exact_mut(2) {
            chunk.copy_from_slice(&[0xf7, 0x7f]);
        }
    }
    fill
}
