//! A function of one lane's values, applied to all lanes of registers.

use crate::decode::{DoubleRegister, WordRegister};
use crate::registers::{Doubles, LANES, Registers, Words};

#[inline(always)]
pub(super) fn unary32(registers: &mut Registers, mask: u32, to: WordRegister, a: WordRegister, f: impl Fn(u32) -> u32) {
    let a = *registers.word(a);
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane]);
    }
    registers.set_words(to, mask, &result);
}

#[inline(always)]
pub(super) fn binary32(
    registers: &mut Registers,
    mask: u32,
    to: WordRegister,
    a: WordRegister,
    b: WordRegister,
    f: impl Fn(u32, u32) -> u32,
) {
    let (a, b) = (registers.word(a), registers.word(b));
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane], b[lane]);
    }
    registers.set_words(to, mask, &result);
}

#[inline(always)]
pub(super) fn ternary32(
    registers: &mut Registers,
    mask: u32,
    to: WordRegister,
    [a, b, c]: [WordRegister; 3],
    f: impl Fn(u32, u32, u32) -> u32,
) {
    let (a, b, c) = (registers.word(a), registers.word(b), registers.word(c));
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane], b[lane], c[lane]);
    }
    registers.set_words(to, mask, &result);
}

#[inline(always)]
pub(super) fn binary64(
    registers: &mut Registers,
    mask: u32,
    to: DoubleRegister,
    a: DoubleRegister,
    b: DoubleRegister,
    f: impl Fn(u64, u64) -> u64,
) {
    let (a, b) = (registers.double(a), registers.double(b));
    let mut result: Doubles = [0; LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane], b[lane]);
    }
    registers.set_doubles(to, mask, &result);
}
