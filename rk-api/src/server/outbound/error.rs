//! Why a call failed, in the words of Kubernetes' Go clients.

use std::{error::Error as _, io};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

/// Why somebody could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(in crate::server) enum OutboundError {
    /// What is known of the endpoint does not say where or who it is.
    #[error("{0}")]
    Endpoint(String),
    /// There was no answer.
    #[error("{method} {url:?}: {cause}")]
    Call {
        /// The method, as Go writes it: `Post`.
        method: &'static str,
        /// Who was asked.
        url: String,
        /// What happened.
        cause: Cause,
    },
    /// The answer was no success.
    #[error("{message}")]
    Refused {
        /// Its status code.
        code: u16,
        /// What it said, or what its code means.
        message: String,
    },
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum Cause {
    /// The Service leads nowhere.
    #[error("{0}")]
    Service(String),
    /// No connection came about.
    #[error("dial tcp {0}: {1}")]
    Dial(String, String),
    /// The peer did not prove who it is, or speaks no TLS.
    #[error("{0}")]
    Tls(String),
    /// It took too long.
    #[error("context deadline exceeded")]
    Timeout,
    /// The answer is longer than this many bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The connection broke, or the answer was no HTTP.
    #[error("{0}")]
    Other(String),
}

impl OutboundError {
    /// What an answer means that is no success (client-go's `NewGenericServerResponse`). A Status
    /// speaks for itself.
    pub(super) fn refused(code: u16, body: &[u8]) -> Self {
        let said = serde_json::from_slice::<Status>(body).ok();
        let said = said.filter(|status| status.status.as_deref() == Some("Failure"));
        let said = said.and_then(|status| status.message).filter(|message| !message.is_empty());
        let text = String::from_utf8_lossy(&body[..body.len().min(2048)]);
        let text = text.trim();
        let message = said.unwrap_or_else(|| match code {
            400 => "the server rejected our request for an unknown reason".to_owned(),
            401 => "the server has asked for the client to provide credentials".to_owned(),
            403 if !text.is_empty() => text.to_owned(),
            404 => "the server could not find the requested resource".to_owned(),
            405 => "the server does not allow this method on the requested resource".to_owned(),
            409 => "the server reported a conflict".to_owned(),
            422 => "the server rejected our request due to an error in our request".to_owned(),
            429 => "the server has received too many requests and has asked us to try again later"
                .to_owned(),
            503 => "the server is currently unable to handle the request".to_owned(),
            504 => {
                "the server was unable to return a response in the time allotted, but may still \
                    be processing the request"
                    .to_owned()
            }
            500.. => format!(
                "an error on the server ({text:?}) has prevented the request from succeeding"
            ),
            _ => format!(
                "the server responded with the status code {code} but did not return more \
                 information"
            ),
        });
        Self::Refused { code, message }
    }

    /// The code of the answer; `None` when there was none.
    pub(in crate::server) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl Cause {
    /// What a client's error comes from.
    pub(super) fn of(error: hyper_util::client::legacy::Error) -> Self {
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(cause) = inner.downcast_ref::<Cause>() {
                return cause.copy();
            }
            match inner.downcast_ref::<hyper::Error>() {
                Some(hyper) if hyper.is_incomplete_message() => {
                    return Self::Other("EOF".to_owned());
                }
                Some(hyper) if hyper.is_parse() => {
                    return Self::Other(format!("malformed HTTP response: {hyper}"));
                }
                _ => {}
            }
            source = inner.source();
        }
        Self::Other(error.to_string())
    }

    /// No connection to this address.
    pub(super) fn dial(address: String, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => error.to_string(),
        };
        Self::Dial(address, why)
    }

    fn copy(&self) -> Self {
        match self {
            Self::Service(why) => Self::Service(why.clone()),
            Self::Dial(address, why) => Self::Dial(address.clone(), why.clone()),
            Self::Tls(why) => Self::Tls(why.clone()),
            Self::Timeout => Self::Timeout,
            Self::TooLong(bytes) => Self::TooLong(*bytes),
            Self::Other(why) => Self::Other(why.clone()),
        }
    }
}
