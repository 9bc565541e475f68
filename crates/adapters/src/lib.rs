//! What services use, as parts of an epilogue program: pools and connections that close when what uses them has
//! stopped, telemetry that is flushed last.
//!
//! | feature | what | stops by |
//! |---|---|---|
//! | `sqlx` | [`sqlx_pool`]: a pool of any database of sqlx | waiting for what is held, and naming who holds it |
//! | `redis` | [`redis_client`]: a Redis client | finishing the commands that were sent, then QUIT |
//! | `opentelemetry` | [`telemetry`]: tracer, meter and logger providers | a flush after everything else |
//!
//! Start them before what uses them: what starts first stops last.

#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlx")]
mod sqlx;
#[cfg(feature = "opentelemetry")]
pub mod telemetry;

#[cfg(feature = "redis")]
pub use redis::{RedisClient, redis_client};
#[cfg(feature = "sqlx")]
pub use sqlx::{Held, Pool, SqlxPool, Transaction, sqlx_pool};
