//! What a journal promises, tried in every way that a program, a kernel and a device can end.

#[cfg(not(epilogue_loom))]
mod bytes;
#[cfg(not(epilogue_loom))]
mod crash;
#[cfg(epilogue_loom)]
mod interleaved;
#[cfg(not(epilogue_loom))]
mod law;
#[cfg(all(feature = "sqlite", not(epilogue_loom)))]
mod oracle;
#[cfg(not(epilogue_loom))]
mod power;
#[cfg(not(epilogue_loom))]
mod random;
#[cfg(not(epilogue_loom))]
mod rig;
