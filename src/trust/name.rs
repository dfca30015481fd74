//! Does the certificate bear the signer's name?
//!
//! Where there is a subjectAltName extension, one of its dNSName entries must be the name, and the common name
//! is not asked: public authorities are dropping it. Only without that extension must the subject's single
//! common name be the name. Both are compared as the parsed attribute, never as printed text, in which one
//! attribute can pose as another.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;

/// What the certificate says of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// It has a subjectAltName extension, and the name is in it.
    BySubjectAltName,
    /// It has none, and the name is its only common name.
    ByCommonName,
    /// It names somebody else, or nobody.
    Other,
}

/// How `certificate` bears `name`, without regard to case and without wildcards.
pub(super) fn naming(certificate: &X509Certificate<'_>, name: &str) -> Naming {
    let has_extension = certificate
        .iter_extensions()
        .any(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME);
    if has_extension {
        let Ok(Some(extension)) = certificate.subject_alternative_name() else {
            return Naming::Other;
        };
        let is_name = |entry: &GeneralName<'_>| matches!(entry, GeneralName::DNSName(dns) if dns.eq_ignore_ascii_case(name));
        return if extension.value.general_names.iter().any(is_name) {
            Naming::BySubjectAltName
        } else {
            Naming::Other
        };
    }
    let mut common_names = certificate.subject().iter_common_name();
    match (common_names.next(), common_names.next()) {
        (Some(only), None) if only.as_str().is_ok_and(|cn| cn.eq_ignore_ascii_case(name)) => {
            Naming::ByCommonName
        }
        _ => Naming::Other,
    }
}
