//! The libraries, mostly by the examples in their documentation.

use super::*;

#[test]
fn lists_are_searched_and_summed() {
    all_true(&[
        "[1, 3, 5].isSorted() && !['b', 'a'].isSorted() && [].isSorted()",
        "[1, 3].sum() == 4 && [1.5, 2.0].sum() == 3.5 && [duration('1s')].sum() == duration('1s')",
        "[1, 3].max() == 3 && ['b', 'a'].min() == 'a'",
        "[1, 2, 2, 3].indexOf(2) == 1 && [1, 2, 2].lastIndexOf(2) == 2 && [1].indexOf(5) == -1",
        "[1, 2].includes(2) && 'a'.includes('a')",
        "[1, 2, 3, 4].slice(1, 3) == [2, 3]",
        "[[1], [2, 3]].flatten() == [1, 2, 3]",
        "[dyn([1]), dyn([[2]])].flatten(2) == [1, 2]",
        "[dyn(1), dyn('a')].includes('a')",
        "lists.range(3) == [0, 1, 2] && [1, 2].reverse() == [2, 1]",
        "[1, 2, 1].distinct() == [1, 2] && [3, 1, 2].sort() == [1, 2, 3]",
        "['aaa', 'b', 'cc'].sortBy(x, x.size()) == ['b', 'cc', 'aaa']",
        "sets.contains([1, 2, 3], [1, 1]) && !sets.contains([1], [2])",
        "sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1, 2], [2, 3])",
    ]);
    all_fail(&[
        ("dyn([]).max()", "max called on empty list"),
        ("[1].slice(0, 2)", "cannot slice(0, 2), list is length 1"),
    ]);
}

#[test]
fn strings_are_taken_apart() {
    all_true(&[
        "'hello'.charAt(1) == 'e' && 'hello'.charAt(5) == ''",
        "'hello mellow'.indexOf('ello') == 1 && 'hello mellow'.indexOf('ello', 2) == 7",
        "'hello mellow'.lastIndexOf('ello') == 7 && 'hello mellow'.lastIndexOf('ello', 6) == 1",
        "'hello'.indexOf('') == 0 && 'hello'.lastIndexOf('') == 5",
        "['a', 'b'].join('-') == 'a-b' && [].join() == ''",
        "'TacoCÆt'.lowerAscii() == 'tacocÆt' && 'a'.upperAscii() == 'A'",
        "'hello hello'.replace('he', 'we') == 'wello wello'",
        "'hello hello'.replace('he', 'we', 1) == 'wello hello' && 'ab'.replace('', '_') == '_a_b_'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "'abc'.split('') == ['a', 'b', 'c'] && 'a,b'.split(',', 0) == [] && ''.split(',') == ['']",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco'",
        "'  \\t a '.trim() == 'a'",
        "strings.quote('a \"b\"\\n') == '\"a \\\\\"b\\\\\"\\\\n\"'",
        "'äöü'.substring(1, 2) == 'ö' && 'äöü'.indexOf('ü') == 2",
        "'abc'.matches('^a.c$') && matches('abc', 'b') && !'abc'.matches('^b')",
        "'abc 123'.find('[0-9]+') == '123' && 'x'.find('y') == ''",
        "'1a2b'.findAll('[0-9]') == ['1', '2'] && '1a2b'.findAll('[0-9]', 1) == ['1']",
        "base64.encode(b'hello') == 'aGVsbG8=' && base64.decode('aGVsbG8') == b'hello'",
        "jsonpatch.escapeKey('a~b/c') == 'a~0b~1c'",
    ]);
    all_fail(&[
        ("'tacocat'.charAt(30)", "index out of range: 30"),
        ("'tacocat'.substring(40)", "index out of range: 40"),
        ("'tacocat'.substring(3, 2)", "invalid substring range. start: 3, end: 2"),
    ]);
}

#[test]
fn strings_are_formatted() {
    all_true(&[
        "'%s %d %%'.format(['a', 1]) == 'a 1 %'",
        "'%.2f'.format([1.256]) == '1.26' && '%.3e'.format([2718.28]) == '2.718×10⁰³' && '%e'.format([0.5]) == '5.000000×10⁻⁰¹' && '%.1f'.format([-1234567.25]) == '-1,234,567.2'",
        "'%b %o %x %X'.format([5, 8, 255, 255]) == '101 10 ff FF'",
        "'%x'.format(['hi']) == '6869' && '%b'.format([true]) == '1'",
        "'%s'.format([[1, 'a', null]]) == '[1, \"a\", null]'",
        "'%s'.format([{'b': 2, 'a': 1.5}]) == '{\"a\": 1.5, \"b\": 2}'",
        "'%s'.format([duration('90s')]) == '90s' && '%s'.format([timestamp(0)]) == '1970-01-01T00:00:00Z'",
        "'%s %s'.format([true, null]) == 'true null'",
    ]);
    all_fail(&[
        ("'%d'.format(['a'])", "decimal clause can only be used on integers, was given string"),
        ("'%s'.format([])", "index 0 out of range"),
        ("'%z'.format([1])", "unrecognized formatting clause \"z\""),
    ]);
}

#[test]
fn urls_have_parts() {
    all_true(&[
        "url('https://user@example.com:80/path%20x?k=v&k=w&q=a+b#frag').getScheme() == 'https'",
        "url('https://example.com:80/').getHost() == 'example.com:80'",
        "url('https://example.com:80/').getHostname() == 'example.com'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://[::1]:80/').getPort() == '80'",
        "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
        "url('/path?k=v&k=w').getQuery() == {'k': ['v', 'w']}",
        "url('https://example.com').getPort() == '' && url('https://example.com/').getQuery() == {}",
        "isURL('https://a.com') && !isURL('a b') && !isURL('../x') && isURL('/x')",
        "url('https://a/b') == url('https://a/b')",
    ]);
    all_fail(&[("url('../x')", "URL parse error during conversion from string")]);
}

#[test]
fn addresses_and_ranges_compare() {
    all_true(&[
        "ip('127.0.0.1').family() == 4 && ip('::1').family() == 6",
        "isIP('::1') && !isIP('::ffff:1.2.3.4') && !isIP('300.1.1.1') && !isIP('01.1.1.1')",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "ip('127.0.0.1').isLoopback() && ip('0.0.0.0').isUnspecified() && ip('10.0.0.1').isGlobalUnicast()",
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast()",
        "string(ip('::1')) == '::1' && ip('::1') == ip('0:0::1')",
        "cidr('192.168.0.0/24').containsIP('192.168.0.5')",
        "cidr('192.168.0.0/24').containsIP(ip('192.168.0.5')) && !cidr('10.0.0.0/8').containsIP('11.0.0.1')",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24')",
        "!cidr('192.168.10.0/24').containsCIDR(cidr('192.168.0.0/16'))",
        "cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24') && cidr('::/0').prefixLength() == 0",
        "cidr('192.168.1.5/24').ip() == ip('192.168.1.5') && string(cidr('10.0.0.0/8')) == '10.0.0.0/8'",
        "isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0')",
        "type(ip('::1')) == net.IP && type(cidr('::1/8')) == net.CIDR",
    ]);
    all_fail(&[
        ("ip('::ffff:1.2.3.4')", "IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed"),
        ("ip('x')", "IP Address \"x\" parse error during conversion from string"),
    ]);
}

#[test]
fn quantities_are_amounts() {
    all_true(&[
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1k').isLessThan(quantity('1Ki'))",
        "quantity('50k').add(quantity('20k')) == quantity('70k') && quantity('50k').sub(20) == quantity('49980')",
        "quantity('200M').compareTo(quantity('0.2G')) == 0 && quantity('1') == quantity('1000m')",
        "quantity('50000000G').asInteger() == 50000000000000000 && quantity('50k').isInteger()",
        "!quantity('500m').isInteger() && quantity('500m').asApproximateFloat() == 0.5",
        "quantity('-1').sign() == -1 && sign(quantity('0')) == 0",
        "isQuantity('1.3Gi') && !isQuantity('1.3.3') && !isQuantity('Three') && isQuantity('1.5Mi')",
        "type(quantity('1')) == kubernetes.Quantity",
    ]);
    all_fail(&[("quantity('500m').asInteger()", "cannot convert value to integer")]);
}

#[test]
fn versions_are_ordered() {
    all_true(&[
        "isSemver('1.0.0') && !isSemver('v1.0') && isSemver('v1.0', true)",
        "semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3",
        "semver('1.2.3').compareTo(semver('2.0.0')) == -1",
        "semver('1.0.0').isGreaterThan(semver('1.0.0-rc.1')) && semver('v01.01', true) == semver('1.1.0')",
    ]);
    all_fail(&[("semver('1.0')", "No Major.Minor.Patch elements found")]);
}

#[test]
fn named_formats_tell_what_is_wrong() {
    all_true(&[
        "!format.dns1123Label().validate('my-label').hasValue()",
        "format.dns1123Label().validate('My_Label').value().size() == 1",
        "!format.dns1123LabelPrefix().validate('my-label-').hasValue()",
        "format.named('dns1035Label').hasValue() && !format.named('x').hasValue()",
        "!format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
        "format.byte().validate('???').value() == ['invalid base64']",
        "!format.date().validate('2021-01-01').hasValue() && format.date().validate('2021-02-30').hasValue()",
        "!format.datetime().validate('2021-01-01T00:00:00Z').hasValue()",
        "!format.qualifiedName().validate('a.b/c').hasValue() && !format.labelValue().validate('').hasValue()",
        "!format.uri().validate('http://a.com').hasValue() && format.uri().validate('x').hasValue()",
    ]);
}

#[test]
fn an_authorizer_is_asked_until_it_has_answered() {
    let env = Env::new().authorizer().request_resource();
    let program = env
        .compile(
            "authorizer.group('apps').resource('deployments').namespace('n').check('create').allowed() \
             && !authorizer.serviceAccount('n', 's').path('/healthz').check('get').allowed() \
             && authorizer.requestResource.subresource('log').name('p') != authorizer.requestResource",
        )
        .unwrap();
    let mut decisions = Decisions::default();
    let mut asked = Vec::new();
    let result = loop {
        let target = ResourceTarget { resource: "pods".into(), ..ResourceTarget::default() };
        let bindings = Bindings::new()
            .bind("authorizer", Value::authorizer(&decisions))
            .bind("authorizer.requestResource", Value::request_resource(&decisions, target));
        let outcome = program.evaluate(&bindings, &mut Budget::default());
        match outcome {
            Err(EvalError::NeedsDecision(query)) => {
                let allowed = matches!(query.target, AccessTarget::Resource(_));
                let decision = Decision { allowed, reason: "why".into(), error: None };
                asked.push(query.verb.clone());
                decisions.insert(*query, decision);
            }
            Ok(value) => break value.as_bool(),
            // Two checks are all that one evaluation can pay for.
            Err(error) => panic!("{error}: {asked:?}"),
        }
    };
    assert_eq!((result, asked), (Some(true), vec!["create".to_owned(), "get".to_owned()]));
}
