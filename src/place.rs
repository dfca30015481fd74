//! Where the instance is: region, DNS suffix, and the one partition that both must name.
//!
//! The metadata gives region and suffix unsigned. Together they make the name that the signer's certificate
//! must bear, so a liar may choose among AWS's own signers and nothing else, and the partition decides which
//! trust anchors may be asked.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use crate::reason::{Reason, Refusal};

/// An AWS region, by its shape: prefixes are added every year, so no list of them is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region(String);

impl Region {
    /// Longest region taken. `us-gov-west-1` has 13 characters; the limit leaves room.
    pub const MAX_LEN: usize = 32;

    /// Takes two to four lower-case words and a number of one or two digits, joined by hyphens.
    ///
    /// # Errors
    /// [`Reason::ImdsMalformed`] for everything else, an availability zone among it.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let mut words = text.split('-').rev();
        let number = words.next().unwrap_or_default();
        let well_formed = text.len() <= Self::MAX_LEN
            && matches!(number.len(), 1 | 2)
            && number.bytes().all(|b| b.is_ascii_digit())
            && words
                .clone()
                .all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase()))
            && matches!(words.count(), 2..=4);
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refusal::new(
                Reason::ImdsMalformed,
                format!("`{text}` is not a region"),
            ))
        }
    }

    /// The region's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition that a region of this shape belongs to (botocore's `endpoints.json`), if any does.
    fn partition(&self) -> Option<Partition> {
        let words: Vec<&str> = self.0.split('-').collect();
        match words.as_slice() {
            ["cn", _, _] => Some(Partition::Cn),
            ["us", "gov", _, _] => Some(Partition::UsGov),
            ["us", "iso", _, _] => Some(Partition::Iso),
            ["us", "isob", _, _] => Some(Partition::IsoB),
            ["eu", "isoe", _, _] => Some(Partition::IsoE),
            ["us", "isof", _, _] => Some(Partition::IsoF),
            ["eusc", _, _, _] => Some(Partition::Eusc),
            // The public partition: a two-letter area, a direction, a number. A word more is always another partition.
            [area, _, _] if area.len() == 2 => Some(Partition::Aws),
            _ => None,
        }
    }
}

/// The AWS partitions, and one for suffixes that an administrator added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// The public regions.
    Aws,
    /// China.
    Cn,
    /// GovCloud.
    UsGov,
    /// ISO.
    Iso,
    /// ISOB.
    IsoB,
    /// ISOE.
    IsoE,
    /// ISOF.
    IsoF,
    /// The European Sovereign Cloud.
    Eusc,
    /// A DNS suffix of `[trust] extra_domains`.
    Extra,
}

impl Partition {
    /// The partitions that AWS has, each with its DNS suffix.
    const TABLE: [(Self, &'static str, &'static str); 8] = [
        (Self::Aws, "aws", "amazonaws.com"),
        (Self::Cn, "aws-cn", "amazonaws.com.cn"),
        (Self::UsGov, "aws-us-gov", "amazonaws.com"),
        (Self::Iso, "aws-iso", "c2s.ic.gov"),
        (Self::IsoB, "aws-iso-b", "sc2s.sgov.gov"),
        (Self::IsoE, "aws-iso-e", "cloud.adc-e.uk"),
        (Self::IsoF, "aws-iso-f", "csp.hci.ic.gov"),
        (Self::Eusc, "aws-eusc", "amazonaws.eu"),
    ];

    /// The partition's name, as in an ARN.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::TABLE
            .iter()
            .find(|row| row.0 == self)
            .map_or("extra", |row| row.1)
    }

    /// The partition of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    fn dns_suffix(self) -> Option<&'static str> {
        Self::TABLE.iter().find(|row| row.0 == self).map(|row| row.2)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A DNS suffix of the shape of a domain name: the form of `[trust] extra_domains`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSuffix(String);

impl DnsSuffix {
    /// RFC 1035 §2.3.4.
    pub const MAX_LEN: usize = 253;

    /// Takes two or more lower-case labels of letters, digits and inner hyphens (RFC 1123 §2.1).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let label_holds = |label: &str| {
            matches!(label.len(), 1..=63)
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        (text.len() <= Self::MAX_LEN && text.split('.').count() >= 2 && text.split('.').all(label_holds))
            .then(|| Self(text.to_owned()))
    }

    /// The suffix, without a dot in front.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who must have signed: `managed-ssh-signer.REGION.SUFFIX`, and the partition both lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    region: Region,
    suffix: DnsSuffix,
    partition: Partition,
}

impl Place {
    /// The place that `region` and `domain` name together.
    ///
    /// `pinned` is `[instance] partition`; `extra` is `[trust] extra_domains`, whose suffixes take any region.
    ///
    /// # Errors
    /// [`Reason::ImdsMalformed`] where the region has no region's shape; [`Reason::Partition`] where the suffix
    /// is no partition's, the region is another partition's, or the partition is not the pinned one.
    pub fn new(
        region: &str,
        domain: &str,
        pinned: Option<Partition>,
        extra: &[DnsSuffix],
    ) -> Result<Self, Refusal> {
        let region = Region::new(region)?;
        let by_region = region
            .partition()
            .filter(|partition| partition.dns_suffix() == Some(domain));
        let by_configuration = || {
            extra
                .iter()
                .any(|suffix| suffix.0 == domain)
                .then_some(Partition::Extra)
        };
        let Some(partition) = by_region.or_else(by_configuration) else {
            let detail = format!(
                "region `{}` and domain `{domain}` are not of one AWS partition",
                region.as_str()
            );
            return Err(Refusal::new(Reason::Partition, detail));
        };
        if let Some(pinned) = pinned.filter(|pinned| *pinned != partition) {
            let detail =
                format!("the metadata places this instance in {partition}, the configuration in {pinned}");
            return Err(Refusal::new(Reason::Partition, detail));
        }
        let Some(suffix) = DnsSuffix::new(domain) else {
            return Err(Refusal::new(Reason::Partition, "the domain is not a domain name"));
        };
        Ok(Self {
            region,
            suffix,
            partition,
        })
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The DNS name that the signer's certificate must bear.
    #[must_use]
    pub fn signer_name(&self) -> String {
        format!("managed-ssh-signer.{}.{}", self.region.0, self.suffix.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(region: &str, domain: &str) -> Result<Place, Reason> {
        Place::new(region, domain, None, &[]).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn each_partitions_region_and_suffix_make_a_place() {
        for (region, domain, partition) in [
            ("us-east-1", "amazonaws.com", Partition::Aws),
            ("mx-central-1", "amazonaws.com", Partition::Aws),
            ("ap-southeast-12", "amazonaws.com", Partition::Aws),
            ("cn-north-1", "amazonaws.com.cn", Partition::Cn),
            ("us-gov-west-1", "amazonaws.com", Partition::UsGov),
            ("us-iso-east-1", "c2s.ic.gov", Partition::Iso),
            ("us-isob-east-1", "sc2s.sgov.gov", Partition::IsoB),
            ("eu-isoe-west-1", "cloud.adc-e.uk", Partition::IsoE),
            ("us-isof-south-1", "csp.hci.ic.gov", Partition::IsoF),
            ("eusc-de-east-1", "amazonaws.eu", Partition::Eusc),
        ] {
            let place = place(region, domain).unwrap();
            assert_eq!(place.partition(), partition);
            assert_eq!(
                place.signer_name(),
                format!("managed-ssh-signer.{region}.{domain}")
            );
        }
    }

    #[test]
    fn a_suffix_with_another_partitions_region_is_refused() {
        for (region, domain) in [
            ("us-east-1", "amazonaws.com.cn"),
            ("cn-north-1", "amazonaws.com"),
            ("us-gov-west-1", "c2s.ic.gov"),
            ("us-east-1", "amazonaws.eu"),
            ("us-isox-east-1", "amazonaws.com"),
            ("us-east-1", "example.com"),
            ("us-east-1", "AMAZONAWS.COM"),
            ("us-east-1", "amazonaws.com."),
            ("us-east-1", ""),
        ] {
            assert_eq!(place(region, domain), Err(Reason::Partition), "{region} {domain}");
        }
    }

    #[test]
    fn what_has_no_regions_shape_is_malformed() {
        for region in [
            "",
            "us",
            "us-east",
            "us-east-1a",
            "us-west-2-lax-1a",
            "us-east-1-wl1-bos-wlz-1",
            "US-EAST-1",
            "us--1",
            "us-east-",
            "us-east-123",
            "us-east-1\n",
            "a.us-east-1",
            "us-east-1.evil.com",
            "-us-east-1",
        ] {
            assert_eq!(
                place(region, "amazonaws.com"),
                Err(Reason::ImdsMalformed),
                "{region:?}"
            );
        }
    }

    #[test]
    fn a_pinned_partition_refuses_every_other() {
        let pinned = |partition| Place::new("us-gov-west-1", "amazonaws.com", Some(partition), &[]);
        assert_eq!(pinned(Partition::Aws).unwrap_err().reason, Reason::Partition);
        assert!(pinned(Partition::UsGov).is_ok());
    }

    #[test]
    fn an_extra_domain_makes_a_place_of_its_own_partition() {
        let extra = [DnsSuffix::new("cloud.example").unwrap()];
        let place = Place::new("xx-test-1", "cloud.example", None, &extra).unwrap();
        assert_eq!(place.partition(), Partition::Extra);
        assert_eq!(
            Place::new("xx-test-1", "cloud.example", None, &[])
                .unwrap_err()
                .reason,
            Reason::Partition
        );
    }

    #[test]
    fn only_domain_names_are_suffixes() {
        for text in [
            "", "com", "a..b", ".a.b", "a.b.", "-a.b", "a-.b", "A.b", "a_b.c", "a.b/c", "a b.c",
        ] {
            assert!(DnsSuffix::new(text).is_none(), "{text:?}");
        }
        assert!(DnsSuffix::new("amazonaws.com.cn").is_some());
    }
}
