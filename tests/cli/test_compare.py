"""What `compare` decides, from plain values."""

from __future__ import annotations

from modelworks.cli.compare import declared, undeclared


def deployed(resources, declares=(), commit="c0ffee"):
    return {"commit": commit, "resources": set(resources), "declares": set(declares)}


def test_what_files_differ_in_is_declared_path_by_path():
    here = {"aws:region": "eu-central-1", "modelworks:settings": {"owner": "ml", "endpoints": {"churn": {"cpu": 1}}}}
    there = {"aws:region": "eu-central-1", "modelworks:settings": {"owner": "ml", "endpoints": {"churn": {"cpu": 2}}}}
    (found,) = declared(here, there)
    assert (found.declared, found.path) == (True, "modelworks:settings.endpoints.churn.cpu")
    assert (found.here, found.there) == (1, 2)


def test_secrets_are_compared_by_name_and_never_shown():
    here = {"modelworks:secrets": {"registry_password": {"secure": "v1:one"}}}
    assert declared(here, {"modelworks:secrets": {"registry_password": {"secure": "v1:two"}}}) == []
    (found,) = declared(here, {})
    assert found.here == "(a secret)"


def test_a_resource_of_one_environment_alone_is_undeclared():
    (found,) = undeclared(deployed(["aws:s3/bucket:Bucket extra"]), deployed([]))
    assert (found.declared, found.here, found.there) == (False, True, False)


def test_what_follows_from_a_declared_endpoint_is_declared_with_it():
    assert undeclared(deployed(["k8s Service churn-stable"], ["churn"]), deployed([])) == []


def test_an_endpoint_of_both_explains_no_difference():
    both = {"churn"}
    assert len(undeclared(deployed(["k8s Service churn-stable"], both), deployed([], both))) == 1


def test_two_programs_are_an_undeclared_difference():
    (found,) = undeclared(deployed([], commit="0" * 40), deployed([], commit="1" * 40))
    assert (found.declared, found.path) == (False, "commit")


def test_a_tree_whose_release_line_is_not_committed_yet_is_the_same_program():
    assert undeclared(deployed([], commit="c0ffee-dirty"), deployed([])) == []
