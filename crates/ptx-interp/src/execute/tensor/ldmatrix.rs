//! ldmatrix, stmatrix and movmatrix: 8×8 matrices of 16-bit elements between shared memory and the lanes of a warp, and across lanes.

use crate::address_space::SHARED_WINDOW;
use crate::decode::{Manner, MatrixMove, Space, WordRegister};
use crate::machine::{At, Cluster, Machine, Step, Stopped, Wait, Warp, addresses, is_whole_warp, rebased};
use crate::registers::LANES;

impl Machine<'_> {
    pub(crate) fn matrix_move(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        matrix: &MatrixMove,
        mask: u32,
    ) -> Result<Step, Stopped> {
        if !is_whole_warp(warp, mask) {
            return Ok(Step::Retry(Wait::Lanes));
        }
        let mut places = addresses(&warp.registers, matrix.address);
        if matrix.space == Space::Generic {
            places = rebased(&places, SHARED_WINDOW);
        }
        for (index, register) in matrix.registers.iter().enumerate() {
            // Eight lanes name the rows of each matrix; one pass over the banks serves them if they do not conflict.
            let rows = 0xff << (index * 8);
            self.count_shared(&places, rows, 16, matrix.store);
            let mut elements = [[0u16; 8]; 8];
            if matrix.store {
                let values = *warp.registers.word(*register);
                for (lane, value) in values.iter().enumerate() {
                    let (row, column) = (lane / 4, lane % 4 * 2);
                    for half in 0..2 {
                        let element = (value >> (16 * half)) as u16;
                        if matrix.transposed {
                            elements[column + half][row] = element;
                        } else {
                            elements[row][column + half] = element;
                        }
                    }
                }
            }
            for (row, elements) in elements.iter_mut().enumerate() {
                let lane = index * 8 + row;
                let place = self.shared_place(cluster, at, lane, places[lane], 16, Space::Shared)?;
                if matrix.store {
                    let mut data = [0; 16];
                    for (bytes, element) in data.chunks_exact_mut(2).zip(elements.iter()) {
                        bytes.copy_from_slice(&element.to_le_bytes());
                    }
                    self.write_shared(cluster, at, lane, place, &data, Manner::Weak);
                } else {
                    let who = at.accessor(lane, Manner::Weak);
                    let block = &mut cluster.blocks[place.rank as usize];
                    let conflict = block.shared.note_read(&cluster.order, who, place.offset, 16);
                    let bytes = &block.shared.bytes[place.offset as usize..place.offset as usize + 16];
                    for (element, bytes) in elements.iter_mut().zip(bytes.chunks_exact(2)) {
                        *element = u16::from_le_bytes([bytes[0], bytes[1]]);
                    }
                    if let Some(conflict) = conflict {
                        self.report_conflict(cluster, conflict, at.pc, who.participant, place.offset, 16);
                    }
                }
            }
            if !matrix.store {
                let mut values = [0; LANES];
                for (lane, value) in values.iter_mut().enumerate() {
                    let (row, column) = (lane / 4, lane % 4 * 2);
                    let (low, high) = if matrix.transposed {
                        (elements[column][row], elements[column + 1][row])
                    } else {
                        (elements[row][column], elements[row][column + 1])
                    };
                    *value = u32::from(high) << 16 | u32::from(low);
                }
                warp.registers.set_words(*register, mask, &values);
            }
        }
        Ok(Step::Next)
    }
}

/// `movmatrix`: lane `4·row + column / 2` holds two neighbours of a row, and gets two of a column.
pub(crate) fn transpose(warp: &mut Warp, to: WordRegister, value: WordRegister, mask: u32) -> Step {
    if !is_whole_warp(warp, mask) {
        return Step::Retry(Wait::Lanes);
    }
    let values = *warp.registers.word(value);
    let element = |row: usize, column: usize| values[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let transposed = std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    });
    warp.registers.set_words(to, mask, &transposed);
    Step::Next
}
