//! A stranger's program: a stream of its own where there is a GPU, and attention on it.

/// Touches the GPU as any program with cudarc does. False if there is no driver.
fn has_driver() -> bool {
    // SAFETY: probing only loads the library, whose initialisers have no preconditions.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

#[cfg(any(feature = "all", feature = "two"))]
use sdpa as attention;
#[cfg(all(feature = "one", not(any(feature = "all", feature = "two"))))]
use sdpa_core as attention;

#[cfg(any(feature = "all", feature = "two", feature = "one"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use attention::{Attention, Cuda, Device, Operand, Problem, Tensors};

    let device: Box<dyn Device> = if has_driver() {
        let stream = cudarc::driver::CudaContext::new(0)?.new_stream()?;
        Box::new(Cuda::from_stream(stream)?)
    } else {
        match without_gpu() {
            Some(device) => device,
            None => return Ok(()),
        }
    };
    let problem = Problem::new(1, 1, 64, 64).build()?;
    // f16 ones.
    let ones = [0x00, 0x3c].repeat(problem.span(Operand::Query));
    let (query, key, value) = (device.upload(&ones)?, device.upload(&ones)?, device.upload(&ones)?);
    let output = device.allocate(ones.len())?;
    let tensors = Tensors::new(&query, &key, &value, &output);
    #[cfg(all(feature = "two", not(feature = "all")))]
    assert_eq!(sdpa::generations::ids(), ["v2d", "v3c"]);
    #[cfg(any(feature = "all", feature = "two"))]
    sdpa::Fastest.forward(&*device, &problem, &tensors)?;
    #[cfg(not(any(feature = "all", feature = "two")))]
    sdpa_v2d::V2d.forward(&*device, &problem, &tensors)?;
    let mut found = vec![0; ones.len()];
    device.read(&output, 0, &mut found)?;
    // An average of ones.
    assert_eq!(found, ones);
    println!("attention over ones is one, on {}", device.name());
    Ok(())
}

/// With `all` and `two` the program runs anywhere; with `one` it wants a GPU, and carries no interpreter.
#[cfg(any(feature = "all", feature = "two"))]
fn without_gpu() -> Option<Box<dyn sdpa::Device>> {
    Some(Box::new(sdpa::Interpreter::new()))
}

#[cfg(all(feature = "one", not(any(feature = "all", feature = "two"))))]
fn without_gpu() -> Option<Box<dyn sdpa_core::Device>> {
    println!("no GPU here");
    None
}

#[cfg(not(any(feature = "all", feature = "two", feature = "one")))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    if has_driver() {
        let stream = cudarc::driver::CudaContext::new(0)?.new_stream()?;
        stream.synchronize()?;
    }
    println!("no attention here");
    Ok(())
}
