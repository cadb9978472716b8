//! How a plugin says that it is there: `pluginregistration`, whose only version is v1.

use crate::rpc::Call;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InfoRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PluginInfo {
    /// `CSIPlugin`; kubelets know others.
    #[prost(string, tag = "1")]
    pub(crate) r#type: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// The socket that the plugin serves on; empty is the one that this came from.
    #[prost(string, tag = "3")]
    pub(crate) endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) supported_versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    pub(crate) plugin_registered: bool,
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistrationStatusResponse {}

impl Call for InfoRequest {
    type Answer = PluginInfo;
    const PATH: &'static str = "/pluginregistration.Registration/GetInfo";
}

impl Call for RegistrationStatus {
    type Answer = RegistrationStatusResponse;
    const PATH: &'static str = "/pluginregistration.Registration/NotifyRegistrationStatus";
}
