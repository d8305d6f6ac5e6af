use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn networks(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// What is not global, from the registries, one network a line.
const SPECIAL_V4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

#[test]
fn what_only_this_network_is_meant_to_reach_is_not_global() {
    for special in [
        "169.254.169.254",
        "100.100.100.200",
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(!is_global(ip(special)), "{special}");
    }
    for global in
        ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "64:ff9b::808:808"]
    {
        assert!(is_global(ip(global)), "{global}");
    }
}

proptest! {
    #[test]
    fn an_ipv4_address_is_global_exactly_when_no_special_network_has_it(bits in any::<u32>()) {
        let address = Ipv4Addr::from(bits);
        let special = networks(SPECIAL_V4).iter().any(|network| network.contains(&IpAddr::V4(address)));
        prop_assert_eq!(is_global(address.into()), !special);
        // Dressed as IPv6 it is what it was, or nothing.
        prop_assert_eq!(is_global(address.to_ipv6_mapped().into()), !special);
        prop_assert!(!is_global(address.to_ipv6_compatible().into()));
        let [a, b, c, d] = address.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        prop_assert_eq!(is_global(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into()), !special);
        prop_assert!(!is_global(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into()));
    }

    #[test]
    fn an_ipv6_address_is_global_only_in_global_unicast(bits in any::<u128>()) {
        let address = Ipv6Addr::from(bits);
        prop_assert!(!is_global(address.into()) || bits >> 125 == 1);
    }
}

#[test]
fn a_host_that_is_an_address_is_refused_however_it_is_written() {
    let outbound = Outbound::new(vec![]).unwrap();
    for url in [
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://0/",
        "https://１２７.0.0.1/",
    ] {
        assert!(matches!(outbound.check(url), Err(OutboundError::Refused)), "{url}");
    }
    for url in ["http://example.com/", "file:///etc/passwd", "https://user@example.com/", "https://a.example/#x", "x"] {
        assert!(matches!(outbound.check(url), Err(OutboundError::Url(_))), "{url}");
    }
    assert!(outbound.check("https://8.8.8.8/").is_ok() && outbound.check("https://example.com:8443/a?b").is_ok());
    // Where a network is allowed, http leads to it and nowhere else.
    let outbound = Outbound::new(networks(&["127.0.0.0/8"])).unwrap();
    assert!(outbound.check("http://127.0.0.1:9/").is_ok() && outbound.check("https://[::ffff:127.0.0.1]/").is_ok());
    for url in ["http://8.8.8.8/", "https://10.0.0.1/", "http://[::1]/"] {
        assert!(matches!(outbound.check(url), Err(OutboundError::Refused)), "{url}");
    }
}

#[test]
fn of_what_a_name_resolves_to_only_what_may_be_called_is_left() {
    let all = ["10.0.0.1:0", "8.8.8.8:0", "[::1]:0", "[2606:4700::1111]:0"].map(|text| text.parse().unwrap());
    let rule = Rule { allowed: Arc::default(), global: true };
    let left: Vec<_> = rule.admitted(all.into_iter()).unwrap().into_iter().map(|address| address.ip()).collect();
    assert_eq!(left, [ip("8.8.8.8"), ip("2606:4700::1111")]);
    assert!(rule.admitted(all.into_iter().take(1)).is_err());
}

/// A server that answers once with a body of this length.
async fn server(length: usize) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4_096]).await;
            let head = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&vec![b'x'; length]).await;
        }
    });
    port
}

#[tokio::test]
async fn a_name_that_resolves_to_loopback_is_refused_unless_it_is_allowed() {
    let port = server(10).await;
    let get = async |outbound: &Outbound, url: String, bytes_max| {
        outbound.send(outbound.request(Method::GET, &url).unwrap(), bytes_max).await
    };
    let strict = Outbound::new(vec![]).unwrap();
    let refused = get(&strict, format!("https://localhost:{port}/"), 10).await;
    assert!(matches!(refused, Err(OutboundError::Refused)), "{refused:?}");
    // http goes to allowed networks only, whatever the name says.
    let elsewhere = Outbound::new(networks(&["10.0.0.0/8"])).unwrap();
    let refused = get(&elsewhere, format!("http://localhost:{port}/"), 10).await;
    assert!(matches!(refused, Err(OutboundError::Refused)), "{refused:?}");
    let allowed = Outbound::new(networks(&["127.0.0.0/8"])).unwrap();
    let url = format!("http://localhost:{port}/");
    // The redirect is not followed, and what is too long is not read.
    let answer = get(&allowed, url.clone(), 10).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (302, 10));
    assert!(matches!(get(&allowed, url, 9).await, Err(OutboundError::TooLong(9))));
}
