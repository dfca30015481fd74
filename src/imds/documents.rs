//! The documents that one login needs, by name.

use serde::Deserialize;
use tokio::task::JoinSet;

use super::{Session, limits};
use crate::reason::{Reason, Refusal};
use crate::request::LoginName;

/// What the metadata says of instance and signer: unproven text and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerDocuments {
    /// `instance-id`, where it was asked for.
    pub instance_id: Option<String>,
    /// `placement/region`.
    pub region: String,
    /// `services/domain`.
    pub domain: String,
    /// `managed-ssh-keys/signer-cert/`: PEM, leaf first.
    pub signer_cert: Vec<u8>,
    /// The names in `managed-ssh-keys/signer-ocsp/`.
    pub staple_names: Vec<StapleName>,
}

/// The name of a staple: by custom the hexadecimal hash of the certificate that it is for, but only a hint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StapleName(String);

impl StapleName {
    /// Takes a name that is one harmless segment of a path.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let harmless = matches!(text.len(), 1..=limits::MAX_STAPLE_NAME)
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !text.starts_with('.');
        harmless.then(|| Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The staples of one login.
#[derive(Debug, Default)]
pub struct Staples {
    /// Those that came, in the order of their names, each still in base64.
    pub arrived: Vec<(StapleName, Vec<u8>)>,
    /// Why the first of the others did not, where it was not simply absent (404).
    pub lost: Option<Refusal>,
}

/// One document of [`SignerDocuments`], while they arrive in any order.
enum Part {
    InstanceId(String),
    Region(String),
    Domain(String),
    SignerCert(Vec<u8>),
    StapleNames(String),
}

impl Session {
    /// The records that are active for `user`, as one document; `None` if there is none.
    ///
    /// # Errors
    /// One of the `imds-…` reasons.
    pub async fn active_keys(&self, user: &LoginName) -> Result<Option<Vec<u8>>, Refusal> {
        let path = format!("/latest/meta-data/managed-ssh-keys/active-keys/{user}/");
        let document = self.get(&path, limits::MAX_KEYS_BYTES).await?;
        Ok(document.filter(|document| !document.trim_ascii().is_empty()))
    }

    /// All that is needed to judge the signer but the staples, asked for at once.
    ///
    /// # Errors
    /// One of the `imds-…` reasons, for the first document that fails.
    pub async fn signer_documents(&self, with_instance_id: bool) -> Result<SignerDocuments, Refusal> {
        let mut parts = JoinSet::new();
        let session = self.clone();
        parts.spawn(async move { session.region().await.map(Part::Region) });
        let session = self.clone();
        parts.spawn(async move { session.text("services/domain/").await.map(Part::Domain) });
        let session = self.clone();
        parts.spawn(async move {
            session
                .required("managed-ssh-keys/signer-cert/")
                .await
                .map(Part::SignerCert)
        });
        let session = self.clone();
        parts.spawn(async move { session.staple_list().await.map(Part::StapleNames) });
        if with_instance_id {
            let session = self.clone();
            parts.spawn(async move { session.text("instance-id/").await.map(Part::InstanceId) });
        }

        let mut documents = SignerDocuments {
            instance_id: None,
            region: String::new(),
            domain: String::new(),
            signer_cert: Vec::new(),
            staple_names: Vec::new(),
        };
        while let Some(part) = parts.join_next().await {
            match part.map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?? {
                Part::InstanceId(id) => documents.instance_id = Some(id),
                Part::Region(region) => documents.region = region,
                Part::Domain(domain) => documents.domain = domain,
                Part::SignerCert(pem) => documents.signer_cert = pem,
                Part::StapleNames(list) => {
                    documents.staple_names = list
                        .split_ascii_whitespace()
                        .filter_map(StapleName::new)
                        .collect();
                }
            }
        }
        Ok(documents)
    }

    /// The staples of these names, asked for at once. One that cannot be had is left out: whether it was needed is for
    /// the judge of the path to say.
    pub async fn staples(&self, names: impl IntoIterator<Item = StapleName>) -> Staples {
        let mut requests = JoinSet::new();
        for name in names {
            let session = self.clone();
            requests.spawn(async move {
                let path = format!("/latest/meta-data/managed-ssh-keys/signer-ocsp/{}", name.as_str());
                let staple = session.get(&path, limits::MAX_DOCUMENT_BYTES).await;
                (name, staple)
            });
        }
        let mut answers = requests.join_all().await;
        answers.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut staples = Staples::default();
        for (name, answer) in answers {
            match answer {
                Ok(Some(staple)) => staples.arrived.push((name, staple)),
                Ok(None) => {}
                Err(refusal) => staples.lost = staples.lost.or(Some(refusal)),
            }
        }
        staples
    }

    /// `placement/region`, or where that is absent the region of the identity document. Never taken from a
    /// zone's name: Local Zones and Wavelength zones do not contain their region in one form.
    async fn region(&self) -> Result<String, Refusal> {
        #[derive(Deserialize)]
        struct IdentityDocument {
            region: String,
        }
        if let Some(region) = self
            .get("/latest/meta-data/placement/region", limits::MAX_DOCUMENT_BYTES)
            .await?
        {
            return single_line("placement/region", region);
        }
        let path = "/latest/dynamic/instance-identity/document";
        let Some(document) = self.get(path, limits::MAX_DOCUMENT_BYTES).await? else {
            return Err(Refusal::new(
                Reason::ImdsAbsent,
                "the metadata does not say which region this is",
            ));
        };
        serde_json::from_slice::<IdentityDocument>(&document)
            .map(|document| document.region)
            .map_err(|error| Refusal::new(Reason::ImdsMalformed, format!("{path}: {error}")))
    }

    /// The names of the staples; none where the service has no such list.
    async fn staple_list(&self) -> Result<String, Refusal> {
        let path = "/latest/meta-data/managed-ssh-keys/signer-ocsp/";
        let list = self
            .get(path, limits::MAX_DOCUMENT_BYTES)
            .await?
            .unwrap_or_default();
        String::from_utf8(list).map_err(|_| Refusal::new(Reason::ImdsMalformed, "signer-ocsp/ is not text"))
    }

    async fn text(&self, name: &str) -> Result<String, Refusal> {
        single_line(name, self.required(name).await?)
    }

    async fn required(&self, name: &str) -> Result<Vec<u8>, Refusal> {
        let document = self
            .get(&format!("/latest/meta-data/{name}"), limits::MAX_DOCUMENT_BYTES)
            .await?;
        document.ok_or_else(|| Refusal::new(Reason::ImdsAbsent, format!("the metadata has no {name}")))
    }
}

/// A document of one word, with or without a newline after it.
fn single_line(name: &str, document: Vec<u8>) -> Result<String, Refusal> {
    String::from_utf8(document)
        .map(|text| text.trim_ascii_end().to_owned())
        .map_err(|_| Refusal::new(Reason::ImdsMalformed, format!("{name} is not text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staples_name_is_one_harmless_segment() {
        for good in ["A8985D3A65E5E5C4B2D7D66D40C6DD2FB19C5436", "a.b", "x-1_2"] {
            assert!(StapleName::new(good).is_some(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a%2fb",
            "a?b",
            "é",
            "a b",
            &"A".repeat(129),
        ] {
            assert!(StapleName::new(bad).is_none(), "{bad}");
        }
    }
}
