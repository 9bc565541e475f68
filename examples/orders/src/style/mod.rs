//! The two ways the service is put together.

pub mod epilogue;
pub mod plain;
