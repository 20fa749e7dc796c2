//! Calls of functions.

use super::*;

/// A parameter or a result, which a call moves between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameMove {
    pub caller: u32,
    pub callee: u32,
    pub bytes: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Index of the function in the program.
    pub function: u32,
    /// Where the caller's frame starts; none for the entry's.
    pub frame: Option<DoubleRegister>,
    pub frame_bytes: u32,
    pub arguments: Box<[FrameMove]>,
    pub results: Box<[FrameMove]>,
}

#[derive(Clone, Debug)]
pub(crate) struct IgnoredCall {
    pub frame: Option<DoubleRegister>,
    /// Places and sizes of its results.
    pub zeros: Box<[(u32, u32)]>,
}
