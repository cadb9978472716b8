//! What a signing request asks for, and whether a signer of Kubernetes gives it; pure.

use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::FromDer,
};

/// The signers of Kubernetes.
pub(super) const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Only v1beta1 took requests for it.
pub(super) const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

const SIGNATURE: &str = "digital signature";
const ENCIPHERMENT: &str = "key encipherment";
const CLIENT: &str = "client auth";
const SERVER: &str = "server auth";

/// The subject of a signing request, and how many other names of each kind it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: usize,
    pub emails: usize,
    pub addresses: usize,
    pub uris: usize,
}

/// Reads a request in PEM.
pub(super) fn parse(pem: &[u8]) -> Result<Request, String> {
    let wrong = "PEM block type must be CERTIFICATE REQUEST";
    let (_, pem) = parse_x509_pem(pem).map_err(|_| wrong.to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(wrong.to_owned());
    }
    let (_, found) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let subject = &found.certification_request_info.subject;
    let text = |it: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        it.as_str().map(ToOwned::to_owned).map_err(|error| error.to_string())
    };
    let mut request = Request {
        // Of several the last counts, as in Go's library.
        common_name: subject.iter_common_name().last().map(text).transpose()?.unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect::<Result<_, _>>()?,
        ..Request::default()
    };
    for extension in found.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) => request.dns += 1,
                GeneralName::RFC822Name(_) => request.emails += 1,
                GeneralName::IPAddress(_) => request.addresses += 1,
                GeneralName::URI(_) => request.uris += 1,
                _ => {}
            }
        }
    }
    Ok(request)
}

/// Whether a signer gives what is asked for, and what is wrong if not; `None` for the signers of
/// others.
pub(super) fn check(
    signer: &str,
    request: &Request,
    usages: &[String],
) -> Option<Result<(), String>> {
    Some(match signer {
        API_CLIENT => api_client(usages),
        KUBELET_CLIENT => kubelet_client(request, usages),
        KUBELET_SERVING => kubelet_serving(request, usages),
        LEGACY_UNKNOWN => Ok(()),
        _ => return None,
    })
}

fn api_client(usages: &[String]) -> Result<(), String> {
    let known = [SIGNATURE, ENCIPHERMENT, CLIENT];
    if let Some(other) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|usage| usage == CLIENT) {
        return Err(format!("missing required usage for client certificate: {CLIENT}"));
    }
    Ok(())
}

/// The client certificate of a kubelet.
pub(super) fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    organization(request)?;
    none("DNS", request.dns)?;
    none("Email", request.emails)?;
    none("IP", request.addresses)?;
    none("URI", request.uris)?;
    common_name(request)?;
    usages_are(usages, CLIENT)
}

fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    organization(request)?;
    if request.dns + request.addresses == 0 {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    none("Email", request.emails)?;
    none("URI", request.uris)?;
    usages_are(usages, SERVER)?;
    common_name(request)
}

fn organization(request: &Request) -> Result<(), String> {
    match request.organizations.as_slice() {
        [only] if only == NODES => Ok(()),
        _ => Err(format!("subject organization is not {NODES}")),
    }
}

fn common_name(request: &Request) -> Result<(), String> {
    match request.common_name.starts_with(NODE_PREFIX) {
        true => Ok(()),
        false => Err(format!("subject common name does not begin with {NODE_PREFIX}")),
    }
}

fn none(kind: &str, count: usize) -> Result<(), String> {
    match count {
        0 => Ok(()),
        _ => Err(format!("{kind} subjectAltNames are not allowed")),
    }
}

/// A signature and `purpose`; keys of RSA encipher too.
fn usages_are(usages: &[String], purpose: &str) -> Result<(), String> {
    let required = |usage: &str| usage == SIGNATURE || usage == purpose;
    let fits = usages.iter().all(|usage| required(usage) || usage == ENCIPHERMENT)
        && [SIGNATURE, purpose].iter().all(|needed| usages.iter().any(|usage| usage == needed));
    if fits {
        return Ok(());
    }
    let mut all = [SIGNATURE, ENCIPHERMENT, purpose];
    all.sort_unstable();
    Err(format!("usages did not match [{}]", all.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Request {
        Request {
            common_name: "system:node:a".to_owned(),
            organizations: vec![NODES.to_owned()],
            ..Request::default()
        }
    }

    #[track_caller]
    fn expect(signer: &str, request: &Request, usages: &[&str], wrong: &str) {
        let usages: Vec<_> = usages.iter().map(|usage| (*usage).to_owned()).collect();
        let found = check(signer, request, &usages).unwrap().err().unwrap_or_default();
        assert_eq!(found, wrong);
    }

    #[test]
    fn a_kubelet_gets_a_client_certificate_for_itself() {
        let check = |request: &Request, usages: &[&str], wrong: &str| {
            expect(KUBELET_CLIENT, request, usages, wrong);
        };
        check(&node(), &[SIGNATURE, CLIENT], "");
        check(&node(), &[SIGNATURE, ENCIPHERMENT, CLIENT], "");
        let expected = "usages did not match [client auth digital signature key encipherment]";
        check(&node(), &[CLIENT], expected);
        check(&node(), &[SIGNATURE, CLIENT, SERVER], expected);
        let other = Request { organizations: vec!["devs".to_owned()], ..node() };
        check(&other, &[SIGNATURE, CLIENT], "subject organization is not system:nodes");
        let more = Request { organizations: vec![NODES.to_owned(), "devs".to_owned()], ..node() };
        check(&more, &[SIGNATURE, CLIENT], "subject organization is not system:nodes");
        let user = Request { common_name: "jane".to_owned(), ..node() };
        let expected = "subject common name does not begin with system:node:";
        check(&user, &[SIGNATURE, CLIENT], expected);
        let named = Request { dns: 1, ..node() };
        check(&named, &[SIGNATURE, CLIENT], "DNS subjectAltNames are not allowed");
    }

    #[test]
    fn a_kubelet_gets_a_serving_certificate_for_its_names() {
        let check = |request: &Request, usages: &[&str], wrong: &str| {
            expect(KUBELET_SERVING, request, usages, wrong);
        };
        let named = Request { addresses: 1, ..node() };
        check(&named, &[SIGNATURE, SERVER], "");
        check(&node(), &[SIGNATURE, SERVER], "DNS or IP subjectAltName is required");
        let expected = "usages did not match [digital signature key encipherment server auth]";
        check(&named, &[SIGNATURE, CLIENT], expected);
        let mail = Request { emails: 1, ..named };
        check(&mail, &[SIGNATURE, SERVER], "Email subjectAltNames are not allowed");
    }

    #[test]
    fn anybody_gets_a_client_certificate_and_nothing_else() {
        let check = |usages: &[&str], wrong: &str| {
            expect(API_CLIENT, &Request::default(), usages, wrong);
        };
        check(&[CLIENT], "");
        check(&[SERVER, CLIENT], "invalid usage for client certificate: server auth");
        check(&[SIGNATURE], "missing required usage for client certificate: client auth");
    }

    #[test]
    fn the_signers_of_others_are_theirs() {
        assert_eq!(check("example.com/s", &node(), &[]), None);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let expected = "PEM block type must be CERTIFICATE REQUEST";
        assert_eq!(parse(b"nonsense").unwrap_err(), expected);
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(parse(other.as_bytes()).unwrap_err(), expected);
    }
}
