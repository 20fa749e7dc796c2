//! candle and our kernels in one program, on candle's own stream.

use candle_core::{Device, Result};

fn main() -> Result<()> {
    let candle = Device::new_cuda(0)?;
    let stream = candle.as_cuda_device()?.cuda_stream();
    let device = sdpa::Cuda::from_stream(stream).map_err(candle_core::Error::wrap)?;
    println!("candle's stream runs our kernels on {}", sdpa::Device::name(&device));
    Ok(())
}
