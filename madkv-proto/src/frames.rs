//! The frames of [`smr_service::frames`], with the [`ClusterMap`] in them.

use crate::map::ClusterMap;

pub use smr_service::frames::{
    Ask, CLIENT_VERSIONS, Hello, KIND_HELLO, KIND_RANGED_HELLO, KIND_RANGED_WELCOME, KIND_REFUSAL, KIND_REQUEST,
    KIND_RESPONSE, KIND_WELCOME, MAGIC, RangedHello, RangedWelcome, Refusal, Registration, Request, Service, Welcome,
};

/// What became of a request.
pub type Body = smr_service::frames::Body<ClusterMap>;
/// An answer.
pub type Response = smr_service::frames::Response<ClusterMap>;
