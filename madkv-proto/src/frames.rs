//! The frames of [`smr_service::frames`], with the [`ClusterMap`] in them.

use crate::map::ClusterMap;

pub use smr_service::frames::{
    CLIENT_VERSIONS, ClientRequest, Hello, KIND_HELLO, KIND_RANGED_HELLO, KIND_RANGED_WELCOME, KIND_REFUSAL,
    KIND_REQUEST, KIND_RESPONSE, KIND_WELCOME, MAGIC, RangedHello, RangedWelcome, Refusal, Registration, RequestFrame,
    Service, VERSION_BEFORE_RANGES, VERSION_OF_CONTROL, Welcome, WelcomeFields,
};

/// What became of a request.
pub type ClientResponse = smr_service::frames::ClientResponse<ClusterMap>;
/// The answer to one request, with the map of this store.
pub type ResponseFrame = smr_service::frames::ResponseFrame<ClusterMap>;
