//! What instructions do, a file for each family. All of them work on `machine`, and none on another family.

mod async_copy;
mod atomics;
mod barrier;
mod calls;
mod cluster;
mod exit;
mod load;
mod mbarrier;
mod registers;
mod shuffle;
mod store;
mod tensor;
mod tma;

pub(crate) use registers::share_registers;
pub(crate) use tensor::transpose;
