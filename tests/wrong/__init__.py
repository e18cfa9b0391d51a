"""Plugins that can be imported and are wrong, each in one way: the conformance kit has to find it, by the right check.

One module a role; its `WRONG` says for every class which checks have to fail. All others have to pass.
"""
