"""The decoder. Arrays carry their shape in their name, one letter per axis.

    B batch            D embed       F mlp
    T query position   N heads       V vocabulary (padded)
    S key position     H head dim    L layers
    E token embedding: as wide as D, but for models that project it
    R query position between two layers, where it may be split further than T

The same letters are the logical axes that `parallel/sharding.py` maps to the mesh.
"""
