"""Do two forms of a model compute the same, and if not, which node differs first?"""
