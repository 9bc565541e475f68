//! What services use, as parts of an epilogue program: pools and connections that close when what uses them has
//! stopped, telemetry that is flushed last.
//!
//! | feature | what | stops by |
//! |---|---|---|
//! | `sqlx` | [`sqlx_pool`]: a pool of any database of sqlx | waiting for what is held, and naming who holds it |
//! | `nats` | [`nats_subscriber`]: a NATS subscriber | taking no more, and handling all that had come |
//! | `rabbit` | [`rabbit_consumer`]: a RabbitMQ consumer | taking no more, and acknowledging what is being handled |
//! | `redis` | [`redis_client`]: a Redis client | finishing the commands that were sent, then QUIT |
//! | `opentelemetry` | [`telemetry`]: tracer, meter and logger providers | a flush after everything else |
//!
//! Start them before what uses them: what starts first stops last.

#[cfg(any(feature = "nats", feature = "rabbit"))]
mod in_flight;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "rabbit")]
mod rabbit;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlx")]
mod sqlx;
#[cfg(feature = "opentelemetry")]
pub mod telemetry;

#[cfg(feature = "nats")]
pub use nats::{NatsSubscriber, Subscribed, nats_subscriber};
#[cfg(feature = "rabbit")]
pub use rabbit::{Consuming, RabbitConsumer, rabbit_consumer};
#[cfg(feature = "redis")]
pub use redis::{RedisClient, redis_client};
#[cfg(feature = "sqlx")]
pub use sqlx::{Held, Pool, SqlxPool, Transaction, sqlx_pool};
