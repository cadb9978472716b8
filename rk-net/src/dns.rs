//! Cluster DNS: the names of Services, endpoints and Pods.
//!
//! # Where to start
//! - [`Zone`]: from what is known of a cluster and a question to an answer, without I/O.
//! - [`ClusterRecords`]: the same over the informers of a process.
//! - [`Server`]: answers over UDP and TCP, from one's own [`Records`], then the cluster's, then other
//!   servers' ([`Upstream`]).
//!
//! # Example
//! ```
//! use rk_net::dns::{Answer, Data, Name, Question, Record, Records, Type};
//!
//! /// Knows the printer's address, and leaves all other questions to the next.
//! #[derive(Debug)]
//! struct Printer;
//!
//! impl Records for Printer {
//!     fn answer(&self, question: &Question) -> Option<Answer> {
//!         let is_printer = question.name == Name::parse("printer.example.com").ok()?;
//!         let data = Data::A([192, 0, 2, 7].into());
//!         (is_printer && question.kind == Type::A)
//!             .then(|| Answer::of(vec![Record { name: question.name.clone(), ttl: 60, data }]))
//!     }
//! }
//! # let question = Question { name: Name::parse("printer.example.com")?, kind: Type::A };
//! # assert!(Printer.answer(&question).is_some());
//! # Ok::<(), rk_net::dns::InvalidName>(())
//! ```
//!
//! # Invariants
//! - Nothing that is sent to the server ends it, or makes it send more than one message back.
//! - All that waits is bounded: questions that other servers are asked, connections, what is kept of
//!   answers.

mod known;
mod message;
mod name;
mod record;
mod server;
mod upstream;
mod zone;

pub use known::{ClusterRecords, Known};
pub use message::{Query, Transport, Unanswerable};
pub use name::{InvalidName, Name};
pub use record::{Answer, Code, Data, Question, Record, Soa, Type};
pub use server::{Now, Server};
pub use upstream::Upstream;
pub use zone::Zone;

/// A source of answers.
pub trait Records: std::fmt::Debug + Send + Sync {
    /// The answer to a question. `None` leaves it to the next source; an answer without records says
    /// that there are none.
    ///
    /// It must not block: the server asks it between two packets.
    fn answer(&self, question: &Question) -> Option<Answer>;
}
