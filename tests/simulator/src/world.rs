//! What there is: instances and where they are. Everything here is set up before the simulator starts.

use crate::principals::Principals;
use crate::record::KEY_LIFETIME;
use crate::signer::SignerSpec;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The hypervisor, which decides what the host itself knows of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// DMI's board asset tag is the instance id.
    Nitro,
    /// `/sys/hypervisor/uuid` starts with `ec2`; nothing names the instance.
    Xen,
}

/// One instance.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `i-…`.
    pub id: String,
    /// Nitro or Xen.
    pub hypervisor: Hypervisor,
    /// `us-east-1`.
    pub region: String,
    /// `us-east-1a`, or a Local Zone such as `us-west-2-lax-1a`.
    pub zone: String,
    /// `amazonaws.com`: what `services/domain` says.
    pub domain: String,
    /// `aws`: what `services/partition` says.
    pub partition: String,
    /// Twelve digits.
    pub account: String,
    /// Private IPv4 address.
    pub private_ip: Ipv4Addr,
    /// Public IPv4 address: where a client told to connect will go.
    pub public_ip: IpAddr,
    /// `running`, `stopped`, …
    pub state: String,
    /// Whether the metadata service is switched on (`HttpEndpoint`).
    pub imds_enabled: bool,
    /// Whether a token is needed (`HttpTokens=required`).
    pub token_required: bool,
    /// The signer; by default production's shape for region and domain.
    pub signer: Option<SignerSpec>,
    /// Where its metadata service listens.
    pub listen: Vec<SocketAddr>,
}

/// Partition and DNS suffix of a region, from the shape of its name.
pub fn partition_of(region: &str) -> (&'static str, &'static str) {
    const TABLE: [(&str, &str, &str); 8] = [
        ("cn-", "aws-cn", "amazonaws.com.cn"),
        ("us-gov-", "aws-us-gov", "amazonaws.com"),
        ("us-iso-", "aws-iso", "c2s.ic.gov"),
        ("us-isob-", "aws-iso-b", "sc2s.sgov.gov"),
        ("eu-isoe-", "aws-iso-e", "cloud.adc-e.uk"),
        ("us-isof-", "aws-iso-f", "csp.hci.ic.gov"),
        ("eusc-", "aws-eusc", "amazonaws.eu"),
        ("", "aws", "amazonaws.com"),
    ];
    TABLE
        .iter()
        .find(|(prefix, ..)| region.starts_with(prefix))
        .map_or(("aws", "amazonaws.com"), |(_, partition, domain)| {
            (partition, domain)
        })
}

/// The account that everything belongs to unless told otherwise.
pub const ACCOUNT: &str = "123456789012";

impl Instance {
    /// A running Nitro instance in us-east-1a with its metadata service on a free loopback port.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            hypervisor: Hypervisor::Nitro,
            region: String::new(),
            zone: String::new(),
            domain: String::new(),
            partition: String::new(),
            account: ACCOUNT.to_owned(),
            private_ip: Ipv4Addr::new(10, 0, 0, 10),
            public_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            state: "running".to_owned(),
            imds_enabled: true,
            token_required: true,
            signer: None,
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        }
        .region("us-east-1")
    }

    /// Moves it to another region, its first zone, and the partition that the name belongs to.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        let (partition, domain) = partition_of(region);
        self.region = region.to_owned();
        self.zone = format!("{region}a");
        self.domain = domain.to_owned();
        self.partition = partition.to_owned();
        self
    }

    /// The name that its signer's certificate must bear.
    pub fn signer_host(&self) -> String {
        format!("managed-ssh-signer.{}.{}", self.region, self.domain)
    }

    /// The signer it starts with.
    pub fn signer_spec(&self) -> SignerSpec {
        self.signer
            .clone()
            .unwrap_or_else(|| SignerSpec::production(&self.signer_host()))
    }

    /// `arn:PARTITION:ec2:REGION:ACCOUNT:instance/ID`.
    pub fn arn(&self) -> String {
        format!(
            "arn:{}:ec2:{}:{}:instance/{}",
            self.partition, self.region, self.account, self.id
        )
    }
}

/// Everything there is.
#[derive(Clone, Debug)]
pub struct World {
    /// The instances; the first is the one that unqualified calls mean.
    pub instances: Vec<Instance>,
    /// Who may push keys.
    pub principals: Principals,
    /// Seconds that a pushed key lives.
    pub key_lifetime: i64,
    /// Keep metadata connections open; production was seen to close them.
    pub keep_alive: bool,
    /// Where the API and the control interface listen.
    pub api: SocketAddr,
}

impl World {
    /// One Nitro instance in us-east-1.
    pub fn nitro(id: &str) -> Self {
        Self {
            instances: vec![Instance::new(id)],
            principals: Principals::default(),
            key_lifetime: KEY_LIFETIME,
            keep_alive: false,
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }

    /// One Xen instance in us-east-1.
    pub fn xen(id: &str) -> Self {
        Self::nitro(id).change(|i| i.hypervisor = Hypervisor::Xen)
    }

    /// Adds an instance.
    #[must_use]
    pub fn and(mut self, instance: Instance) -> Self {
        self.instances.push(instance);
        self
    }

    /// Changes the instance that was added last.
    #[must_use]
    pub fn change(mut self, change: impl FnOnce(&mut Instance)) -> Self {
        if let Some(last) = self.instances.last_mut() {
            change(last);
        }
        self
    }

    /// Moves the instance that was added last to another region.
    #[must_use]
    pub fn region(self, region: &str) -> Self {
        self.change(|i| *i = i.clone().region(region))
    }

    /// Gives the instance that was added last this signer.
    #[must_use]
    pub fn signer(self, signer: SignerSpec) -> Self {
        self.change(|i| i.signer = Some(signer))
    }

    /// Sets how many seconds a pushed key lives.
    #[must_use]
    pub fn key_lifetime(mut self, seconds: i64) -> Self {
        self.key_lifetime = seconds;
        self
    }

    /// Keeps metadata connections open between requests.
    #[must_use]
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_belongs_to_one_partition() {
        assert_eq!(partition_of("eu-central-1"), ("aws", "amazonaws.com"));
        assert_eq!(partition_of("us-gov-west-1"), ("aws-us-gov", "amazonaws.com"));
        assert_eq!(partition_of("us-isob-east-1"), ("aws-iso-b", "sc2s.sgov.gov"));
        assert_eq!(partition_of("eusc-de-east-1"), ("aws-eusc", "amazonaws.eu"));
        assert_eq!(
            Instance::new("i-1").region("cn-north-1").signer_host(),
            "managed-ssh-signer.cn-north-1.amazonaws.com.cn"
        );
    }
}
